"""Reads what `cloud-ingester export` wrote, as far as that goes without the services; fails at the first mistake.

usage: exports.py FOLDER    with synapse/, fabric/, powerbi/, databricks/ below it; prints how much of each was read
"""

import json
import pathlib
import sys

import sqlfluff
import yaml


def statements(path, dialect):
    """Every statement is one that the dialect knows; their number."""
    tree = sqlfluff.parse(path.read_text(), dialect=dialect)  # what cannot be parsed is an error
    return json.dumps(tree).count('"statement":')


def databricks(folder):
    count = sum(statements(path, "databricks") for path in sorted(folder.rglob("*.sql")))
    bundle = yaml.safe_load((folder / "databricks.yml").read_text())
    assert set(bundle) == {"bundle", "variables", "targets", "resources"}
    task = bundle["resources"]["jobs"]["catalog"]["tasks"][0]["sql_task"]
    assert (folder / task["file"]["path"]).is_file()
    return count


def powerbi(folder):
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".md":
            json.loads(path.read_text())
    model = json.loads((folder / "gold.SemanticModel/model.bim").read_text())["model"]
    names = [table["name"] for table in model["tables"]]
    assert len(names) == len(set(names))
    measures = [measure["name"] for table in model["tables"] for measure in table["measures"]]
    assert len(measures) == len(set(measures)), "a measure's name is the model's, not the table's"
    return len(measures)


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    counts = {
        "synapse": statements(folder / "synapse/synapse.sql", "tsql"),
        "fabric": statements(folder / "fabric/views.sql", "tsql"),
        "powerbi": powerbi(folder / "powerbi"),
        "databricks": databricks(folder / "databricks"),
    }
    json.dump(counts, sys.stdout)
