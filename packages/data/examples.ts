// Rows become token ids and labels. Labels are not shifted: labels[i] is the token at i where the model
// is trained to predict it, and -100 where it is not. The first label is always -100, since nothing
// comes before it; that also keeps documents apart when they are laid end to end.
//
// Each span is tokenized apart (as the QLoRA code did, arXiv:2305.14314), so the ids of a prompt are
// those that serving gives the same prompt, whatever completion follows.
import { NibbleError } from "#packages/errors";
import { renderTurns, trainedOf } from "./chat-turns.ts";
import type { Conversation } from "./conversations.ts";
import type { PlacedRow } from "./dataset.ts";
import type { Row } from "./formats.ts";
import { type Place, rowError } from "./place.ts";
import type { TextTokenizer } from "./tokenizer.ts";

export const notTrained = -100;

export interface Example extends Place {
  inputIds: Int32Array;
  labels: Int32Array;
  /** Labels that are not -100. */
  trainedCount: number;
  /** Of each of them in the loss: a row of weight 2 counts as if it were there twice. */
  weight: number;
  /** Tokens cut off at the right by maxLength. */
  cutCount: number;
  /** Whether an end-of-sequence token is among what is trained; without, a model never stops. */
  trainsEos: boolean;
  /** Why nothing of it is trained, if so. */
  untrained: string | null;
}

export interface ExampleOptions {
  /** Tokens of an example at most. */
  maxLength: number;
  /** Train prompts and user turns as well. Default false. */
  trainOnSource?: boolean;
  /** Which of a dialogue's assistant turns are trained. Default "all". */
  trainTurns?: TrainTurns;
  /** What ends a turn; default the tokenizer's EOS. */
  eosTokenIds?: readonly number[];
  /** Rows that bring ids are checked against it; default the tokenizer's size. */
  vocabSize?: number;
}

export const trainTurns = ["all", "last"] as const;
export type TrainTurns = (typeof trainTurns)[number];

/** A piece of text that is tokenized by itself. */
interface Span {
  ids: number[];
  trained: boolean;
}

export class ExampleBuilder {
  private readonly tokenizer: TextTokenizer;
  private readonly options: ExampleOptions;
  private readonly eosIds: ReadonlySet<number>;
  /** What the tokenizer puts before a text (a BOS, mostly). */
  private readonly opening: readonly number[];

  constructor(tokenizer: TextTokenizer, options: ExampleOptions) {
    const { maxLength } = options;
    if (!Number.isSafeInteger(maxLength) || maxLength < 2) {
      throw new RangeError(`[examples] max_length: expected a whole number >= 2, got ${maxLength}`);
    }
    this.tokenizer = tokenizer;
    this.options = options;
    const eos = tokenizer.eosTokenId;
    this.eosIds = new Set(options.eosTokenIds ?? (eos === null ? [] : [eos]));
    this.opening = tokenizer.encode("").filter((id) => id !== eos);
  }

  /**
   * Mostly one example; of a dialogue whose template rewrites earlier turns several (chat-turns.ts).
   * @throws with file and line where the row cannot be tokenized.
   */
  build({ row, file, line, weight }: PlacedRow): Example[] {
    const place = { file, line };
    if (row.kind === "ids") {
      this.checkIds(row.inputIds, row.labels, place);
      return [this.finish(row.inputIds, [...row.labels], { ...place, weight })];
    }
    const all = this.options.trainOnSource === true;
    return this.spansOf(row, place).map((spans) => {
      const ids = spans.flatMap((span) => span.ids);
      const labels = spans.flatMap(({ ids, trained }) => ids.map((id) => (all || trained ? id : notTrained)));
      return this.finish(ids, labels, { ...place, weight });
    });
  }

  private spansOf(row: Exclude<Row, { kind: "ids" }>, place: Place): Span[][] {
    switch (row.kind) {
      case "text": {
        const ids = this.opened(row.text);
        return [[{ ids: [...ids, ...this.closing(ids)], trained: true }]];
      }
      case "completion": {
        const ids = this.encode(row.completion);
        const prompt = { ids: this.opened(row.prompt), trained: false };
        return [[prompt, { ids: [...ids, ...this.closing(ids)], trained: true }]];
      }
      case "messages":
        return this.spansOfChat(row, place);
    }
  }

  private encode(text: string): number[] {
    return text === "" ? [] : this.tokenizer.encode(text, { addSpecialTokens: false });
  }

  /** Text with the tokenizer's opening, but not a second BOS where the text brings its own. */
  private opened(text: string): number[] {
    const ids = this.encode(text);
    const last = this.opening.at(-1);
    return last !== undefined && ids[0] === last ? ids : [...this.opening, ...ids];
  }

  /** The EOS that a text does not end with yet. */
  private closing(ids: readonly number[]): number[] {
    const eos = this.tokenizer.eosTokenId;
    return eos === null || this.eosIds.has(ids.at(-1) ?? -1) ? [] : [eos];
  }

  private spansOfChat(conversation: Conversation, place: Place): Span[][] {
    const template = this.tokenizer.chatTemplate;
    if (!template) {
      const message = `${place.file}:${place.line}: a row of messages needs a chat template, and the model's folder has none`;
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "examples" });
    }
    const renderings = renderTurns(conversation, template, { place, isTrained: this.turnsTrained(conversation) });
    // Trained as a whole, the last rendering has all turns, and the others would only repeat it.
    const wanted = this.options.trainOnSource === true ? renderings.slice(-1) : trainedOf(renderings);
    return wanted.map((pieces) =>
      pieces.flatMap(({ text, trained }) => {
        const ids = this.encode(text);
        return trained ? this.splitAtEos(ids) : [{ ids, trained }];
      }),
    );
  }

  /** An assistant's opening words, before anything was asked, are never trained. */
  private turnsTrained({ messages }: Conversation): (turn: number) => boolean {
    const last = messages.findLastIndex(({ role }) => role === "assistant");
    return (turn) =>
      turn > 0 && messages[turn]?.untrained !== true && (this.options.trainTurns !== "last" || turn === last);
  }

  private splitAtEos(ids: number[]): Span[] {
    const end = ids.findLastIndex((id) => this.eosIds.has(id)) + 1;
    if (end === 0) return [{ ids, trained: true }];
    return [
      { ids: ids.slice(0, end), trained: true },
      { ids: ids.slice(end), trained: false },
    ];
  }

  private checkIds(inputIds: readonly number[], labels: readonly number[], place: Place): void {
    const limit = this.options.vocabSize ?? this.tokenizer.vocabSize;
    const outside = inputIds.concat(labels).find((id) => id >= limit);
    if (outside !== undefined) throw rowError(place, `input_ids, labels: expected ids below ${limit}, got ${outside}`);
  }

  private finish(ids: number[], labels: number[], { weight, ...place }: Place & { weight: number }): Example {
    const { maxLength } = this.options;
    const inputIds = Int32Array.from(ids.slice(0, maxLength));
    const kept = Int32Array.from(labels.slice(0, maxLength));
    if (kept.length > 0) kept[0] = notTrained;
    if (weight === 0) kept.fill(notTrained);
    const trainedCount = kept.reduce((count, label) => count + Number(label !== notTrained), 0);
    const trainsEos = kept.some((label) => this.eosIds.has(label));
    const cutCount = ids.length - inputIds.length;
    const untrained = trainedCount > 0 ? null : weight === 0 ? "its weight is 0" : this.whyUntrained(labels);
    return { ...place, inputIds, labels: kept, trainedCount, weight, cutCount, trainsEos, untrained };
  }

  private whyUntrained(labels: readonly number[]): string {
    const { maxLength } = this.options;
    const wanted = labels.findIndex((label, i) => i > 0 && label !== notTrained);
    return wanted >= maxLength
      ? `the first trained token is number ${wanted + 1}, beyond max_length ${maxLength}`
      : `none of its ${labels.length} tokens is trained`;
  }
}
