"""Writes the Parquet files of this folder with pyarrow: rows of our own, with the columns of the QLoRA paper's sets."""
import os
import pyarrow as pa, pyarrow.parquet as pq

here = os.path.dirname(os.path.abspath(__file__))
text = pa.string()
instance = pa.struct([("instruction_with_input", text), ("input", text), ("constraints", text), ("output", text)])
reformulation = pa.struct([("instruction", text), ("instruction_with_input", text), ("input", text), ("output", text)])
sets = {
    "alpaca": (
        [("instruction", text), ("input", text), ("output", text), ("text", text)],
        [{"instruction": "Add.", "input": "2 and 2", "output": "4", "text": "Below is … 4"},
         {"instruction": "Say hi.", "input": "", "output": "Hi.", "text": "Below is … Hi."}],
    ),
    "self-instruct": (
        [("prompt", text), ("completion", text)],
        [{"prompt": "Add the numbers.\n2 and 2\n\nOutput:", "completion": " 4<|endoftext|>"}],
    ),
    "unnatural-instructions": (
        [("instruction", text), ("instances", pa.list_(instance)), ("reformulations", pa.list_(reformulation))],
        [{"instruction": "Add two numbers.",
          "instances": [{"instruction_with_input": "Add two numbers: 2, 2", "input": "2, 2", "constraints": "None.", "output": "4"},
                        {"instruction_with_input": "Add two numbers: 1, 2", "input": "1, 2", "constraints": "None.", "output": "3"}],
          "reformulations": [{"instruction": "Sum.", "instruction_with_input": "Sum 2, 2", "input": "2, 2", "output": "4"}]}],
    ),
    "longform": (
        [("input", text), ("output", text), ("source", text), ("subset", text)],
        [{"input": "Tell a story.", "output": "Once there was a small model.", "source": "Wiki", "subset": "wiki"}],
    ),
}
for name, (fields, rows) in sets.items():
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    pq.write_table(table, f"{here}/{name}.parquet", compression="snappy")
