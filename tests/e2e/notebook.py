"""Runs every cell of a notebook; prints what its cells printed.

usage: notebook.py FILE LAKE
"""

import os
import sys

import nbclient
import nbformat

if __name__ == "__main__":
    file, os.environ["LAKE"] = sys.argv[1:]
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            print(text.rstrip())
