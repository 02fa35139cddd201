// nibble chat: a conversation in the terminal, or lines of stdin as turns.
import { createInterface } from "node:readline";
import type { Command } from "commander";
import type { ChatMessage } from "#packages/data";
import type { Answerer } from "../backend.ts";
import { type Io, line } from "../io.ts";
import { askedOf } from "../sampling-options.ts";
import { addModel, type ModelFlags, openOptionsOf } from "./generate.ts";
import { withBackend } from "./run.ts";

/** Room for the conversation, where the model's own limit is higher. */
const contextTokens = 4096;
const prompt = "> ";

interface Options extends ModelFlags {
  system?: string;
}

export function addChat(program: Command, io: Io): void {
  const command = program
    .command("chat")
    .description("talk with a model; /reset begins anew, /exit or Ctrl-D ends")
    .option("--system <text>", "instructions before the first turn");
  addModel(command).action((options: Options) => chat(io, options));
}

async function chat(io: Io, options: Options): Promise<void> {
  const open = openOptionsOf(io, options, contextTokens);
  await withBackend(io, options.endpoint, async (backend) => {
    const model = await backend.open(open, io.signal);
    try {
      await converse(io, model, options);
    } finally {
      await model.close();
    }
  });
}

async function converse(io: Io, model: Answerer, options: Options): Promise<void> {
  const opening: ChatMessage[] = options.system === undefined ? [] : [{ role: "system", content: options.system }];
  let messages = [...opening];
  const asked = { ...askedOf(options), n: 1, wantLogits: false, topLogprobs: null };
  const ask = () => (io.stdin.isTTY ? void io.stderr.write(prompt) : undefined);
  const lines = createInterface({ input: io.stdin, crlfDelay: Number.POSITIVE_INFINITY, signal: io.signal });
  ask();
  for await (const text of lines) {
    if (text === "/exit") break;
    if (text === "/reset") messages = [...opening];
    else if (text.trim() !== "") {
      const turn: ChatMessage[] = [...messages, { role: "user", content: text }];
      const onText = (piece: string) => void io.stdout.write(piece);
      const [answer] = await model.answer({ ...asked, input: { messages: turn } }, { signal: io.signal, onText });
      line(io.stdout, "");
      messages = [...turn, { role: "assistant", content: answer?.text ?? "" }];
    }
    ask();
  }
  io.signal.throwIfAborted();
}
