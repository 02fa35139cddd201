// The fetch that every call to the Hub goes through, @huggingface/hub's as well: it sends the token to the Hub only,
// waits and tries again where that may help, and turns what the Hub refuses into errors.
import { BackOff, NibbleError } from "#packages/errors";
import { refusalOf } from "./errors.ts";
import type { HubSettings } from "./settings.ts";

export interface RetryLimits {
  /** Attempts in all. Default: 6. */
  attemptsMax?: number;
  /** Before the second attempt, in milliseconds; it doubles from there. Default: 1000. */
  waitMsFirst?: number;
  /** Longest wait that a server may ask for, in milliseconds; one that asks for more is given up. Default: 300,000. */
  waitMsMax?: number;
  /** Silence after which a download's connection is given up, in milliseconds. Default: 30,000. */
  idleMsMax?: number;
}

interface RetryOptions extends RetryLimits {
  signal?: AbortSignal | undefined;
}

export interface HubCall extends RetryOptions {
  settings: HubSettings;
  op: string;
  /** What is asked for, in errors. */
  what: string;
  /** The caller reads the body as it comes; otherwise it is read here, so that a connection cut within it is made up for. */
  isStream?: boolean;
}

const worthRetrying = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Whether what failed is the way to the server rather than the question. */
export function isConnectionLoss(thrown: unknown): boolean {
  if (thrown instanceof NibbleError) return thrown.details["lost"] === "connection";
  // fetch throws a TypeError for everything that happens below HTTP.
  return thrown instanceof TypeError;
}

export function backOffOf({ attemptsMax = 6, waitMsFirst = 1000, waitMsMax = 300_000, signal }: RetryOptions): BackOff {
  return new BackOff({ attemptsMax, waitMsFirst, askedMsMax: waitMsMax, signal });
}

/** What the server asks to wait, in milliseconds: Retry-After, or the Hub's RateLimit header with nothing remaining. */
export function askedWaitMs(headers: Headers): number | undefined {
  const after = headers.get("retry-after");
  if (after !== null && /^\d+$/.test(after.trim())) return 1000 * Number(after);
  if (after !== null && !Number.isNaN(Date.parse(after))) return Math.max(0, Date.parse(after) - Date.now());
  const [, reset] = /;r=0\s*;t=(\d+)/.exec(headers.get("ratelimit") ?? "") ?? [];
  return reset === undefined ? undefined : 1000 * Number(reset);
}

/** A fetch with the token and with patience; it throws for every answer that is no success. */
export function hubFetch(call: HubCall): typeof fetch {
  const { settings, op, what, signal } = call;
  const origin = new URL(settings.endpoint).origin;
  return async (input, init = {}) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = new Headers(init.headers);
    if (url.origin === origin) {
      // The library writes "Bearer undefined" where it was given none.
      if (settings.token === null) headers.delete("authorization");
      else headers.set("authorization", `Bearer ${settings.token}`);
    }
    headers.set("user-agent", "nibble");
    const attempts = backOffOf(call);
    for (;;) {
      const signals = [signal, init.signal].filter((one) => one != null);
      const answer = await attempt(() => fetch(url, { ...init, headers, signal: AbortSignal.any(signals) }), call);
      if (answer instanceof Response && answer.ok) return answer;
      const mayRetry = answer instanceof Response ? worthRetrying.has(answer.status) : !isUnknownHost(answer);
      const asked = answer instanceof Response ? askedWaitMs(answer.headers) : undefined;
      if (mayRetry && (await attempts.again(asked))) {
        if (answer instanceof Response) await answer.body?.cancel();
        continue;
      }
      if (!(answer instanceof Response)) throw answer;
      const { endpoint, token, tokenFile } = settings;
      throw await refusalOf(answer, { op, what, endpoint, hasToken: token !== null, tokenFile });
    }
  };
}

/** The answer with all of its body. */
async function whole(answer: Response): Promise<Response> {
  if (!answer.ok || answer.body === null) return answer;
  const { status, statusText, headers } = answer;
  return new Response(await answer.arrayBuffer(), { status, statusText, headers });
}

/** The answer, or the error of a connection that was lost; anything else is thrown. */
async function attempt(
  work: () => Promise<Response>,
  { settings, op, what, signal, isStream = false }: HubCall,
): Promise<Response | NibbleError> {
  try {
    const answer = await work();
    return isStream ? answer : await whole(answer);
  } catch (thrown) {
    signal?.throwIfAborted();
    if (!isConnectionLoss(thrown)) throw thrown;
    const reason = reasonOf(thrown);
    const message = `${what}: expected an answer of ${settings.endpoint}, got none: ${reason}`;
    return new NibbleError(message, { code: "UNAVAILABLE", op, details: { lost: "connection" }, cause: thrown });
  }
}

/** A name that nobody knows: a wrong HF_ENDPOINT or a machine without a way out. Waiting does not help. */
function isUnknownHost({ cause }: NibbleError): boolean {
  return ((cause as Error).cause as { code?: string } | undefined)?.code === "ENOTFOUND";
}

/** fetch says "fetch failed"; why is in its cause. */
function reasonOf(thrown: unknown): string {
  const error = thrown as Error;
  const cause = error.cause as (Error & { code?: string }) | undefined;
  return cause ? cause.message || (cause.code ?? cause.name) : error.message;
}
