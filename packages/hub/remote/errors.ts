// What the Hub answered when it did not do what was asked, as our errors: what was expected, what came, what helps.
import { type ErrorCode, NibbleError } from "#packages/errors";

const codeOfStatus: Record<number, ErrorCode> = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  409: "ALREADY_EXISTS",
  412: "ABORTED",
  416: "OUT_OF_RANGE",
  422: "DATA_LOSS",
  429: "UNAVAILABLE",
  507: "RESOURCE_EXHAUSTED",
};

export interface Refusal {
  op: string;
  /** What was asked for: "org/name", "org/name@main: config.json". */
  what: string;
  endpoint: string;
  hasToken: boolean;
  /** Where one would be read from. */
  tokenFile: string;
}

/** A failed answer as an error; its body is read. */
export async function refusalOf(answer: Response, refusal: Refusal): Promise<NibbleError> {
  const { op, what, endpoint } = refusal;
  const code = codeOfStatus[answer.status] ?? (answer.status >= 500 ? "UNAVAILABLE" : "INTERNAL");
  const said = answer.headers.get("x-error-message") ?? (await saidBy(answer));
  const known = knownRefusal(answer, said, refusal);
  const message = known?.message ?? `${what}: ${endpoint} answered ${answer.status}${said === "" ? "" : `: ${said}`}`;
  const details = { status: String(answer.status), ...(known?.details ?? {}) };
  return new NibbleError(message, { code: known?.code ?? code, op, details });
}

async function saidBy(answer: Response): Promise<string> {
  const text = await answer.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error?: unknown };
    return typeof error === "string" ? error : "";
  } catch {
    return "";
  }
}

function knownRefusal(answer: Response, said: string, { op, what, endpoint, hasToken, tokenFile }: Refusal) {
  const tokenHelp = `set HF_TOKEN, or write it to ${tokenFile}`;
  const hubCode = answer.headers.get("x-error-code");
  const known = (code: ErrorCode, message: string) => ({
    code,
    message,
    details: hubCode ? { hub_code: hubCode } : {},
  });
  if (hubCode === "GatedRepo") {
    const need = hasToken
      ? "a token whose owner has accepted its conditions; open its page and accept them, or use another token"
      : `a token: the repository is gated; accept its conditions on its page, then ${tokenHelp}`;
    return known("PERMISSION_DENIED", `${what}: expected ${need}`);
  }
  if (answer.status === 401 && said === "Invalid credentials in Authorization header") {
    return known(
      "UNAUTHENTICATED",
      `${what}: expected a token that ${endpoint} knows, got another one in HF_TOKEN or its file`,
    );
  }
  if (answer.status === 401 && !hasToken && op === "push") {
    return known("UNAUTHENTICATED", `${what}: expected a token to push with; ${tokenHelp}`);
  }
  // The Hub says the same of what is missing and of what is private.
  if (hubCode === "RepoNotFound" || (answer.status === 401 && !hasToken)) {
    const help = hasToken ? "the token may not see it, if it is private" : `if it is private, ${tokenHelp}`;
    return known("NOT_FOUND", `${what}: expected a repository at ${endpoint}, found none; ${help}`);
  }
  if (hubCode === "RevisionNotFound") {
    return known(
      "NOT_FOUND",
      `${what}: expected a branch, a tag or a commit of the repository, found none of that name`,
    );
  }
  return hubCode === "EntryNotFound" ? known("NOT_FOUND", `${what}: not found in the repository`) : undefined;
}
