"""`attendant-batch INPUT OUTPUT`: a data set translated or classified by the engine of the server.

cli.py       the command
plan.py      what is asked for: found shards, options, and what makes two runs the same
inputs.py    which files an INPUT is, and of which kind
lines.py     shards of texts and JSON lines
tables.py    shards of Parquet files
images.py    shards of image folders and tar archives
records.py   what a shard holds, and what becomes of it
embedded.py  the engine in this process: a shard's records in, their outcomes out
ledger.py    parts, each of them whole or not there; joined in the end
outputs.py   the formats of parts: text, JSON lines, Parquet
local.py     all shards on this machine
cluster.py   all shards on the machines of a Ray cluster

An INPUT is cut into shards, in its order. What becomes of a shard is one file, a part, which gets
its name when it is complete: a run that was killed goes on with the shards that have no part, so no
record is lost or doubled. Part n holds the records of shard n in their order, so the output is in
the order of the input.
"""
