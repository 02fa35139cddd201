// nibble generate: continues a prompt or token ids.
import { type Command, Option } from "commander";
import type { Answer, OpenOptions } from "../backend.ts";
import { usageError } from "../errors.ts";
import { type Io, line, printJson } from "../io.ts";
import { deviceOption, dtypeOption, endpointOption, jsonOption, threadsOption, tokenIds, whole } from "../options.ts";
import { addSampling, askedOf, type SamplingFlags } from "../sampling-options.ts";
import { withBackend } from "./run.ts";

export interface ModelFlags extends SamplingFlags {
  model?: string;
  adapter?: string;
  bits?: "4" | "16";
  dtype: OpenOptions["dtype"];
  threads?: number;
  device: OpenOptions["device"];
  endpoint?: string;
}

interface Options extends ModelFlags {
  prompt?: string;
  inputIds?: number[];
  json?: boolean;
  logits?: boolean;
  logprobs?: number;
  n: number;
}

/** The options that say which model answers, and how. */
export function addModel(command: Command): Command {
  command
    .option(
      "--model <dir>",
      "model folder or org/name of the Hub, 16-bit or quantized; with --endpoint default what is loaded there",
    )
    .option(
      "--adapter <dir>",
      "adapter folder or org/name of the Hub; with --endpoint a folder or a name in its registry, adapters/…",
    )
    .addOption(
      new Option("--bits <bits>", "of the linear layers (default: 4 for a quantized folder, 16 otherwise)").choices([
        "4",
        "16",
      ]),
    )
    .addOption(dtypeOption())
    .addOption(threadsOption())
    .addOption(deviceOption())
    .addOption(endpointOption());
  return addSampling(command);
}

export function openOptionsOf(io: Io, flags: ModelFlags, contextTokens: number | null): OpenOptions {
  const { model, adapter = null, bits, dtype, threads = null, device, endpoint = io.env["NIBBLE_ENDPOINT"] } = flags;
  if (model === undefined && endpoint === undefined) throw usageError("required option '--model <dir>' not specified");
  const bitsOf = bits === undefined ? null : bits === "4" ? 4 : 16;
  return { modelDir: model ?? null, adapter, bits: bitsOf, dtype, threads, device, contextTokens };
}

export function addGenerate(program: Command, io: Io): void {
  const command = program
    .command("generate")
    .description("continue a prompt")
    .option("--prompt <text>", "text to continue")
    .addOption(new Option("--input-ids <ids>", "token ids to continue instead, such as 1,2,3").argParser(tokenIds));
  addModel(command)
    .addOption(jsonOption())
    .addOption(new Option("--n <n>", "answers to draw; answer i has seed + i").argParser(whole(1, 64)).default(1))
    .addOption(
      new Option(
        "--logprobs <k>",
        "with --json: each token's log-probability, and the k likeliest in its place",
      ).argParser(whole(0, 20)),
    )
    .option("--logits", "with --json: the logits from which the last token was chosen")
    .action((options: Options) => generate(io, options));
}

async function generate(io: Io, options: Options): Promise<void> {
  const { prompt, inputIds, json = false, logits = false, logprobs: topLogprobs = null, n } = options;
  if ((prompt === undefined) === (inputIds === undefined)) {
    throw usageError("expected one of --prompt and --input-ids");
  }
  if (logits && !json) throw usageError("--logits: expected --json as well");
  if (topLogprobs !== null && !json) throw usageError("--logprobs: expected --json as well");
  const open = openOptionsOf(io, options, null);
  const input = inputIds === undefined ? { prompt: prompt ?? "" } : { inputIds };
  const request = { ...askedOf(options), input, n, wantLogits: logits, topLogprobs };
  await withBackend(io, options.endpoint, async (backend) => {
    const model = await backend.open(open, io.signal);
    try {
      const onText = (piece: string) => void io.stdout.write(piece);
      const answers = await model.answer(request, { signal: io.signal, ...(json || n > 1 ? {} : { onText }) });
      if (!json) print(io, answers);
      else printJson(io, n === 1 ? asJson(answers[0]!) : { answers: answers.map(asJson) });
    } finally {
      await model.close();
    }
  });
}

/** One answer's text has been printed as it came. */
function print(io: Io, answers: readonly Answer[]): void {
  for (const [i, answer] of answers.entries()) {
    if (answers.length > 1) io.stdout.write(`[${i}] ${answer.text}`);
    printFigures(io, answer);
  }
}

function asJson({ tokenIds, text, prefillTokensPerSecond, decodeTokensPerSecond, ...rest }: Answer): object {
  return {
    token_ids: tokenIds,
    text,
    prefill_tokens_per_second: prefillTokensPerSecond,
    decode_tokens_per_second: decodeTokensPerSecond,
    finish_reason: rest.finishReason,
    prompt_tokens: rest.promptTokens,
    ...(rest.logprobs === null ? {} : { logprobs: rest.logprobs }),
    ...(rest.logits === null ? {} : { logits: rest.logits }),
  };
}

function printFigures(io: Io, answer: Answer): void {
  line(io.stdout, "");
  const { promptTokens, tokenIds, prefillTokensPerSecond, decodeTokensPerSecond, finishReason } = answer;
  line(
    io.stderr,
    `(${promptTokens} + ${tokenIds.length} tokens, prefill ${prefillTokensPerSecond.toFixed(1)} tokens/s, ` +
      `decode ${decodeTokensPerSecond.toFixed(1)} tokens/s, ended by ${finishReason})`,
  );
}
