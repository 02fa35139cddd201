"""What a user of Python's openai package does, against whatever OPENAI_BASE_URL says. Prints one JSON object.

usage: openai_client.py ROWS_JSONL
"""
import json
import sys
import time

import openai

client = openai.OpenAI(api_key="none", max_retries=0)
messages = [{"role": "user", "content": "Who is X?"}]
greedy = {"temperature": 0, "max_tokens": 4}

whole = client.chat.completions.create(model="base", messages=messages, **greedy)
stream = client.chat.completions.create(
    model="base", messages=messages, stream=True, stream_options={"include_usage": True}, **greedy
)
chunks = list(stream)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
schema = {"type": "object", "properties": {"n": {"enum": ["one", "two"]}}, "required": ["n"]}
shaped = client.chat.completions.create(
    model="base",
    messages=messages,
    temperature=0,
    max_tokens=64,
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
)
tool = {"type": "function", "function": {"name": "count", "parameters": schema}}
called = client.chat.completions.create(
    model="base", messages=messages, temperature=0, tools=[tool], tool_choice="required"
)
call = called.choices[0].message.tool_calls[0].function
completion = client.completions.create(model="base", prompt=["one", "two"], n=2, seed=1, max_tokens=4, logprobs=1)
try:
    client.chat.completions.create(model="nobody", messages=messages)
    refused = None
except openai.NotFoundError as error:
    refused = error.code

with open(sys.argv[1], "rb") as rows:
    file = client.files.create(file=rows, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model="base", training_file=file.id, suffix="py", seed=1, hyperparameters={"n_epochs": 20, "batch_size": 4,
    "learning_rate_multiplier": 10}
)
while job.finished_at is None:
    time.sleep(0.1)
    job = client.fine_tuning.jobs.retrieve(job.id)
events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=5)]
checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=4))
early = client.chat.completions.create(
    model=checkpoints[-1].fine_tuned_model_checkpoint, messages=messages, **greedy
)
tuned = client.chat.completions.create(model=job.fine_tuned_model, messages=messages, **greedy)
print(
    json.dumps(
        {
            "models": [model.id for model in client.models.list()],
            "whole": whole.choices[0].message.content,
            "streamed": streamed,
            "usage": chunks[-1].usage.completion_tokens,
            "shaped": shaped.choices[0].message.content,
            "called": [call.name, json.loads(call.arguments)["n"] in ("one", "two")],
            "completions": [choice.text for choice in completion.choices],
            "refused": refused,
            "job": [job.status, job.fine_tuned_model],
            "pages": len(events) > 5,
            "newest": events[0],
            "checkpoints": [checkpoint.step_number for checkpoint in checkpoints],
            "checkpoint": checkpoints[0].fine_tuned_model_checkpoint,
            "early": early.model == f"{job.id}-ckpt@1",
            "tuned": tuned.choices[0].message.content,
        }
    )
)
