"""Writes the Parquet files of this folder with pyarrow: the same rows in every compression, two to a row group."""
import json, os
import pyarrow as pa, pyarrow.parquet as pq

here = os.path.dirname(os.path.abspath(__file__))
rows = [
    {"messages": [{"role": "user", "content": f"Zürich {i}?"}, {"role": "assistant", "content": "🙂" * i}],
     "input_ids": [1, 2, i], "weight": i / 2, "count": i, "note": None if i % 2 else "a"}
    for i in range(5)
]
schema = pa.schema([
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("input_ids", pa.list_(pa.int64())), ("weight", pa.float64()), ("count", pa.int64()), ("note", pa.string()),
])
json.dump(rows, open(f"{here}/rows.json", "w"), ensure_ascii=False)
table = pa.Table.from_pylist(rows, schema=schema)
for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    pq.write_table(table, f"{here}/{codec}.parquet", compression=codec, row_group_size=2)
