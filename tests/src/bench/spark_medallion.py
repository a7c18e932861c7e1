"""The same medallion in Spark Structured Streaming: bronze -> silver (deduplicated) -> gold by the minute, all Delta.

Written as a user of Spark would who cares for speed: a fixed schema, native functions only, `availableNow`, a state
that is bounded by a watermark, gold appended once windows are final, no more partitions than cores.

usage: spark_medallion.py OUT READY-BRONZE BRONZE...    one line of JSON per BRONZE; READY-BRONZE warms the JVM up
"""

import json
import os
import pathlib
import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

ENVELOPE = """v int, gw string, epoch string, high bigint, rules string,
  readings array<struct<s: bigint, d: string, m: string, v: double, vb: boolean, vs: string, u: string,
                        t: bigint, r: bigint, q: string, n: bigint>>"""


def session():
    jars = sorted(str(jar) for jar in pathlib.Path(os.environ["DELTA_JARS"]).glob("*.jar"))
    settings = {
        "spark.jars": ",".join(jars),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "6g",
    }
    builder = SparkSession.builder.master("local[2]").appName("medallion")
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def silver(spark, bronze, out):
    body = f.from_json(f.col("body").cast("string"), ENVELOPE).alias("e")
    hub = ["hub", "incarnation", "partition_id", "sequence_number", "enqueued_time"]
    reading = f.posexplode("e.readings").alias("message_index", "x")
    rows = spark.readStream.format("delta").load(bronze).select(body, *hub).select("e", *hub, reading)
    value = f.coalesce("x.v", f.col("x.vb").cast("double"))
    kind = f.when(f.col("x.v").isNotNull(), "number").when(f.col("x.vb").isNotNull(), "bool").otherwise("text")
    typed = rows.select(
        f.concat_ws("/", "e.gw", "e.epoch", "x.s").alias("reading_id"),
        f.col("e.gw").alias("gateway_id"),
        f.col("e.epoch").alias("epoch"),
        f.col("x.s").alias("seq"),
        f.col("e.high").alias("high"),
        f.col("x.n").alias("source_seq"),
        f.col("x.d").alias("device_id"),
        f.col("x.m").alias("metric"),
        value.alias("value"),
        f.col("x.vs").alias("value_text"),
        kind.alias("value_kind"),
        f.col("x.u").alias("unit"),
        f.timestamp_micros("x.t").alias("event_time"),
        f.timestamp_micros("x.r").alias("received_time"),
        f.col("x.q").alias("time_quality"),
        "enqueued_time",
        f.current_timestamp().alias("ingest_time"),
        "hub",
        "incarnation",
        "partition_id",
        "sequence_number",
        "message_index",
        f.col("e.rules").alias("rules"),
        f.to_date(f.timestamp_micros("x.t")).alias("event_date"),
    )
    plausible = f.col("event_time").between(
        f.col("enqueued_time") - f.expr("interval 400 days"), f.col("enqueued_time") + f.expr("interval 1 hour")
    )
    once = (
        typed.where(plausible)
        .withWatermark("enqueued_time", "1 hour")
        .dropDuplicatesWithinWatermark(["gateway_id", "epoch", "seq"])
    )
    writer = once.writeStream.format("delta").outputMode("append").partitionBy("event_date")
    writer = writer.option("checkpointLocation", f"{out}/_silver").trigger(availableNow=True)
    writer.start(f"{out}/silver").awaitTermination()


def gold(spark, out):
    rows = spark.readStream.format("delta").load(f"{out}/silver").withWatermark("event_time", "10 minutes")
    order = f.struct("event_time", "source_seq", "value")
    number = f.col("value").isNotNull()
    grouped = rows.groupBy(
        "gateway_id", "device_id", "metric", "unit", f.window("event_time", "1 minute").alias("w")
    ).agg(
        f.count("*").alias("readings"),
        f.avg("value").alias("value_avg"),
        f.min("value").alias("value_min"),
        f.max("value").alias("value_max"),
        f.stddev_samp("value").alias("value_stddev"),
        f.percentile("value", 0.5).alias("value_p50"),
        f.percentile("value", 0.95).alias("value_p95"),
        f.min(f.when(number, order))["value"].alias("value_first"),
        f.max(f.when(number, order))["value"].alias("value_last"),
    )
    windows = grouped.select("*", f.col("w.start").alias("window_start"), f.col("w.end").alias("window_end")).drop("w")
    dated = windows.withColumn("window_date", f.to_date("window_start"))
    writer = dated.writeStream.format("delta").outputMode("append").partitionBy("window_date")
    writer = writer.option("checkpointLocation", f"{out}/_gold").trigger(availableNow=True)
    writer.start(f"{out}/gold").awaitTermination()


def medallion(spark, bronze, out):
    begun = time.monotonic()
    silver(spark, bronze, out)
    middle = time.monotonic()
    gold(spark, out)
    ended = time.monotonic()
    readings = spark.read.format("delta").load(f"{out}/silver").count()
    windows = spark.read.format("delta").load(f"{out}/gold").count()
    return {
        "readings": readings,
        "windows": windows,
        "silver_s": middle - begun,
        "gold_s": ended - middle,
        "seconds": ended - begun,
    }


def peak_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    out, warm, *bronzes = sys.argv[1:]
    spark = session()
    jvm = spark.sparkContext._jvm.java.lang.ProcessHandle.current().pid()
    for at, bronze in enumerate([warm, warm, *bronzes]):
        told = medallion(spark, bronze, f"{out}/{at}")
        told["peak_bytes"] = peak_bytes(jvm) + peak_bytes("self")
        if at >= 2:
            print(json.dumps(told), flush=True)
    spark.stop()
