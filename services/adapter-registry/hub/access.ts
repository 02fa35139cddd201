// Who may do what. With a token, its holders may do everything, and the others read what is public; without one the
// registry is this machine's own and everybody may do everything. It also signs the addresses to which large files
// are sent: clients send them without their token.
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { NibbleError } from "#packages/errors";
import { checkCaller, isLoopback } from "#packages/http";
import { hubError } from "./errors.ts";
import type { Request } from "./http.ts";
import type { RepoRecord } from "./store.ts";

/** Time to send a file, in milliseconds. */
const signatureMsMax = 24 * 3600_000;

export class Access {
  readonly #now: () => number;
  readonly #token: string;
  readonly #isLocal: boolean;
  readonly #key = randomBytes(32);

  /** An empty token: everybody may do everything. `host` is the address that the server listens on. */
  constructor(now: () => number, { token, host }: { token: string; host: string }) {
    this.#now = now;
    this.#token = token;
    this.#isLocal = token === "" && isLoopback(host);
  }

  /** @throws PERMISSION_DENIED for what a web page of another site sends. */
  checkCaller(headers: Request["headers"]): void {
    checkCaller(headers, { isLocal: this.#isLocal, what: "a registry that others call by a name needs a token" });
  }

  /** Whether the caller holds the token. @throws UNAUTHENTICATED for another one. */
  isOwner({ headers }: Pick<Request, "headers">): boolean {
    if (this.#token === "") return true;
    const [, token] = /^Bearer (.+)$/.exec(headers.authorization ?? "") ?? [];
    if (token === undefined) return false;
    if (same(token, this.#token)) return true;
    // In these words: by them Python's client tells a wrong token from a repository that it may not see.
    const message = "Invalid credentials in Authorization header";
    throw new NibbleError(message, { code: "UNAUTHENTICATED", op: "hub", details: { exact: message } });
  }

  checkOwner(request: Pick<Request, "headers">): void {
    if (this.isOwner(request)) return;
    const message = "expected the registry's token in the Authorization header, got none";
    throw new NibbleError(message, { code: "UNAUTHENTICATED", op: "hub" });
  }

  /** @throws as if there were none for a private repository and a caller without the token. */
  checkVisible(request: Request, repo: RepoRecord): void {
    if (repo.isPrivate && !this.isOwner(request)) throw repoNotFound(repo.id, "UNAUTHENTICATED");
    // A wrong token is said to be wrong, whatever it is used for.
    this.isOwner(request);
  }

  checkReadable(request: Request, repo: RepoRecord): void {
    if (!repo.gated || this.isOwner(request)) return;
    const message = `Access to ${repo.type} ${repo.id} is restricted. You must have access to it and be authenticated to access it. Please log in.`;
    throw hubError("UNAUTHENTICATED", "GatedRepo", message);
  }

  /** The path and query of an address that stands for itself for a day. */
  sign(path: string, fields: Record<string, string>): string {
    const query = new URLSearchParams({ ...fields, expires: String(this.#now() + signatureMsMax) });
    query.set("signature", this.#signature(`${path}?${query}`));
    return `${path}?${query}`;
  }

  /** @throws PERMISSION_DENIED unless the address was signed here and is still good. */
  checkSigned({ pathname, searchParams }: URL): void {
    const query = new URLSearchParams(searchParams);
    const signature = query.get("signature") ?? "";
    query.delete("signature");
    const isGood = same(signature, this.#signature(`${pathname}?${query}`));
    if (isGood && Number(query.get("expires")) > this.#now()) return;
    const message = "the address: expected one that this server signed, got one that it did not or that is too old";
    throw new NibbleError(message, { code: "PERMISSION_DENIED", op: "hub" });
  }

  /** A bearer for everything below a path, for a day. */
  pass(path: string): { pass: string; expiresMs: number } {
    const expiresMs = this.#now() + signatureMsMax;
    return { pass: `${expiresMs}.${this.#signature(`${path} ${expiresMs}`)}`, expiresMs };
  }

  checkPass({ headers }: Pick<Request, "headers">, path: string): void {
    const [, expires = "", signature = ""] = /^Bearer (\d+)\.(\S+)$/.exec(headers.authorization ?? "") ?? [];
    if (same(signature, this.#signature(`${path} ${expires}`)) && Number(expires) > this.#now()) return;
    const message = "expected a bearer that this server gave for this path, got none or one that is too old";
    throw new NibbleError(message, { code: "UNAUTHENTICATED", op: "hub" });
  }

  #signature(text: string): string {
    return createHmac("sha256", this.#key).update(text).digest("base64url");
  }
}

function same(a: string, b: string): boolean {
  const [x, y] = [Buffer.from(a), Buffer.from(b)];
  return x.length === y.length && timingSafeEqual(x, y);
}

export function repoNotFound(id: string, code: "NOT_FOUND" | "UNAUTHENTICATED" = "NOT_FOUND"): NibbleError {
  return hubError(code, "RepoNotFound", `${id}: Repository not found`);
}
