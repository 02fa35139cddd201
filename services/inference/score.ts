// How likely continuations of a context are. It knows no transport.
import type { TextTokenizer } from "#packages/data";
import type { TokenScore } from "#packages/engine";
import { scoreTraced } from "./engine-trace.ts";
import type { LoadedModel } from "./model.ts";
import { needTokenizer, refuse } from "./prompt.ts";

/** Continuations of a request that wait or are computed at a time. */
const togetherMax = 16;

export type ScoreText = { text: string } | { ids: readonly number[] };

export interface ScoreRequest {
  /** Null: the base alone. */
  adapterId: string | null;
  /** The adapter's own, or the model's; null: token ids alone can be scored. */
  tokenizer: TextTokenizer | null;
  /** Null: the tokenizer's special tokens alone. */
  context: ScoreText | null;
  continuations: readonly ScoreText[];
  topLogprobs: number;
  caller: string;
}

export interface ContinuationScore {
  logprob: number;
  isGreedy: boolean;
  tokens: readonly TokenScore[];
}

interface Tokens {
  inputIds: readonly number[];
  /** Index of the first token that is scored. */
  from: number;
}

/** A text after a text is tokenized as one, as it would be read: a token may reach over the border. */
function tokensOf(context: ScoreText | null, continuation: ScoreText, maybe: TextTokenizer | null, i: number): Tokens {
  const before = context ?? { text: "" };
  if ("ids" in before || "ids" in continuation) {
    const encode = (part: ScoreText, addSpecialTokens: boolean) =>
      "ids" in part ? part.ids : needTokenizer(maybe).encode(part.text, { addSpecialTokens });
    const first = context === null && maybe === null ? [] : encode(before, true);
    return placed([...first, ...encode(continuation, false)], first.length, i);
  }
  const tokenizer = needTokenizer(maybe);
  const first = tokenizer.encode(before.text);
  return placed(tokenizer.encode(before.text + continuation.text), first.length, i);
}

function placed(inputIds: readonly number[], length: number, i: number): Tokens {
  // Nothing comes before the first token, so it has no probability.
  const from = Math.max(1, length);
  if (inputIds.length > from) return { inputIds, from };
  return refuse("INVALID_ARGUMENT", `continuations[${i}]: expected a token to score after ${from}, got none`);
}

/** One for each continuation, in order. */
export async function score(
  model: LoadedModel,
  { adapterId, tokenizer, context, continuations, topLogprobs, caller }: ScoreRequest,
  signal: AbortSignal,
): Promise<ContinuationScore[]> {
  const all = continuations.map((one, i) => tokensOf(context, one, tokenizer, i));
  const scoreOne = async (tokens: Tokens): Promise<ContinuationScore> => {
    const input = { adapterId, ...tokens, topLogprobs, caller };
    const { scores: scored } = await scoreTraced(model.engineModel, input, { signal });
    const logprob = scored.reduce((sum, token) => sum + token.logprob, 0);
    return { logprob, isGreedy: scored.every(({ isGreedy }) => isGreedy), tokens: scored };
  };
  return model.use(async () => {
    // The first one leaves the context in the cache for the others. They must not fill the queue.
    const scores = [await scoreOne(all[0]!)];
    for (let i = 1; i < all.length; i += togetherMax) {
      scores.push(...(await Promise.all(all.slice(i, i + togetherMax).map(scoreOne))));
    }
    return scores;
  });
}
