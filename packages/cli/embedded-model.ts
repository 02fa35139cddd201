// A model that answers in this process's engine. It knows no network.
import { randomUUID } from "node:crypto";
import { AnswerText, loadAdapterTokenizer, loadTokenizer, type TextTokenizer, textOfToken } from "#packages/data";
import { defaultQuant, type Engine, type EngineModel, type GeneratedToken, pageTokens } from "#packages/engine";
import { NibbleError } from "#packages/errors";
import { openModelFolder } from "#packages/hub";
import { type Answer, type Answerer, type AnswerRequest, maxNewTokensDefault, type OpenOptions } from "./backend.ts";
import { seedMax } from "./sampling-options.ts";

/** Tokens that a step computes at most: a longer prompt is computed in parts. */
const stepTokensMax = 512;
const adapterId = "adapter";

export class EmbeddedModel implements Answerer {
  private readonly engine: Engine;
  private readonly options: OpenOptions;
  private readonly modelDir: string;
  private readonly maxPositions: number;
  private readonly isQuantized: boolean;
  private readonly tokenizer: TextTokenizer | null;
  private opened: EngineModel | null = null;

  constructor(engine: Engine, modelDir: string, options: OpenOptions) {
    this.engine = engine;
    this.options = options;
    this.modelDir = modelDir;
    using folder = openModelFolder(modelDir);
    this.maxPositions = folder.config.maxPositionEmbeddings;
    this.isQuantized = folder.isQuantized;
    const own = options.adapter === null ? null : loadAdapterTokenizer(options.adapter, modelDir);
    this.tokenizer = own ?? tokenizerOf(modelDir, folder.config.vocabSize);
  }

  /** With room for so many sequences of so many tokens. */
  async open(tokens: number, sequencesMax: number, signal: AbortSignal): Promise<EngineModel> {
    if (this.opened) return this.opened;
    const { bits, dtype, adapter, device } = this.options;
    const model = await this.engine.openModel(
      {
        modelDir: this.modelDir,
        device,
        dtype,
        quant: this.isQuantized || bits === 4 ? defaultQuant : null,
        sequencesMax,
        stepTokensMax,
        // A page that is shared is copied where answers part.
        cacheTokensMax: Math.min(tokens, this.maxPositions) + (sequencesMax - 1) * (tokens + pageTokens),
        waitingMax: sequencesMax,
      },
      { signal },
    );
    if (adapter !== null) await model.loadAdapter(adapterId, adapter);
    this.opened = model;
    return model;
  }

  async answer(
    request: AnswerRequest,
    { signal, onText }: { signal: AbortSignal; onText?: (text: string) => void },
  ): Promise<Answer[]> {
    const inputIds = this.idsOf(request.input);
    const room = Math.max(1, this.maxPositions - inputIds.length);
    const maxNewTokens = request.maxNewTokens ?? Math.min(maxNewTokensDefault, room);
    const model = await this.open(inputIds.length + maxNewTokens, request.n, signal);
    // They share the prompt's computation.
    const group = request.n > 1 ? { group: randomUUID() } : {};
    const one = (i: number) => {
      const sampling = { ...request.sampling, seed: (request.sampling.seed + i) % (seedMax + 1) };
      const input = { ...request, ...group, sampling, inputIds, maxNewTokens };
      return this.one(model, input, { signal, ...(i === 0 && onText ? { onText } : {}) });
    };
    return Promise.all(Array.from({ length: request.n }, (_, i) => one(i)));
  }

  private async one(
    model: EngineModel,
    request: Omit<AnswerRequest, "input" | "maxNewTokens"> & {
      inputIds: number[];
      maxNewTokens: number;
      group?: string;
    },
    { signal, onText }: { signal: AbortSignal; onText?: (text: string) => void },
  ): Promise<Answer> {
    const { stops, n: _, topLogprobs, ...asked } = request;
    const writer = new AnswerText(this.tokenizer, stops);
    const over = new AbortController();
    const tokens: (GeneratedToken & { text: string })[] = [];
    let text = "";
    const give = (piece: string) => {
      text += piece;
      if (piece !== "") onText?.(piece);
    };
    const adapter = this.options.adapter === null ? null : adapterId;
    const logprobs = { wantLogprobs: topLogprobs !== null, topLogprobs: topLogprobs ?? 0 };
    const { reason, timing } = await model.generate(
      { ...asked, ...logprobs, adapterId: adapter },
      {
        signal: AbortSignal.any([signal, over.signal]),
        onEvent: (token) => {
          if (writer.isStopped) return;
          const piece = writer.push(token.id);
          tokens.push({ ...token, text: piece });
          give(piece);
          if (writer.isStopped) over.abort();
        },
      },
    );
    signal.throwIfAborted();
    give(writer.finish());
    const { promptTokens, newTokens, prefillSeconds, decodeSeconds } = timing;
    const logits = tokens.at(-1)?.logits ?? null;
    return {
      tokenIds: tokens.map(({ id }) => id),
      text,
      finishReason: writer.isStopped ? "stop" : reason,
      promptTokens,
      prefillTokensPerSecond: rate(promptTokens, prefillSeconds),
      decodeTokensPerSecond: rate(newTokens - 1, decodeSeconds),
      logits: logits === null ? null : Array.from<number>(logits),
      logprobs: topLogprobs === null ? null : tokens.map((token) => this.logprobOf(token)),
    };
  }

  private logprobOf({ id, text, logprob, top }: GeneratedToken & { text: string }) {
    const told = top.map((one) => ({ ...one, text: textOfToken(this.tokenizer, one.id) }));
    return { id, text, logprob, top: told };
  }

  private idsOf(input: AnswerRequest["input"]): number[] {
    if ("inputIds" in input) return input.inputIds;
    const tokenizer = this.tokenizer ?? loadTokenizer(this.modelDir);
    if ("prompt" in input) return tokenizer.encode(input.prompt);
    if (tokenizer.chatTemplate === null) {
      const message = `${this.modelDir}: expected a chat template, got none; use generate`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "chat" });
    }
    const text = tokenizer.chatTemplate.render(input.messages, { addGenerationPrompt: true });
    return tokenizer.encode(text, { addSpecialTokens: false });
  }

  async close(): Promise<void> {
    await this.opened?.close();
  }
}

function rate(tokens: number, seconds: number): number {
  return tokens > 0 && seconds > 0 ? tokens / seconds : 0;
}

/** Null where the folder has none: token ids can be continued all the same. */
function tokenizerOf(modelDir: string, vocabSize: number): TextTokenizer | null {
  try {
    return loadTokenizer(modelDir, { vocabSize });
  } catch (thrown) {
    if (thrown instanceof NibbleError && thrown.code === "NOT_FOUND") return null;
    throw thrown;
  }
}
