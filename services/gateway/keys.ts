// Who calls. With keys, whoever sends one; without, whoever reaches the port, which is then this machine's alone. Keys of one
// name are one caller: they have their turns, limits, files and jobs together.
import { createHash } from "node:crypto";
import { checkCaller, isLoopback, type Request } from "#packages/http";
import type { Config } from "./config.ts";
import { refusal } from "./errors.ts";

const hashOf = (key: string): string => createHash("sha256").update(key).digest("hex");
/** Of a key that has no name: enough to tell callers apart, nothing of the key. */
const nameChars = 12;

/** Whether a caller may see what another one made. "" made what was there before there were keys, and is everybody without. */
export const isSeenBy = (caller: string, owner: string): boolean => caller === owner || caller === "" || owner === "";

export class Keys {
  /** Names by the sha256 of their keys: a look-up takes as long whatever a wrong key has right. */
  readonly #names: ReadonlyMap<string, string>;
  readonly #host: string;
  readonly #origins: readonly string[];
  readonly #requestsMax: number;
  readonly #underWay = new Map<string, number>();

  constructor({ keys, host, origins, keyRequestsMax }: Pick<Config, "keys" | "host" | "origins" | "keyRequestsMax">) {
    this.#names = new Map(
      keys.map((text) => {
        const [, name, key = ""] = /^(?:([\w.-]+)=(?!=|$))?(.+)$/.exec(text) ?? [];
        return [hashOf(key), name ?? hashOf(key).slice(0, nameChars)];
      }),
    );
    this.#host = host;
    this.#origins = origins;
    this.#requestsMax = keyRequestsMax;
  }

  /** Whether what one caller makes is not all callers' to see. */
  get areOfSeveral(): boolean {
    return new Set(this.#names.values()).size > 1;
  }

  /** @throws PERMISSION_DENIED for pages of sites that were not named. */
  checkOrigin(headers: Request["headers"]): void {
    const isLocal = this.#names.size === 0 && isLoopback(this.#host);
    const what = "a gateway that others call by a name needs keys";
    checkCaller(headers, { isLocal, origins: this.#origins, what });
  }

  /** The caller's name; "" where no keys are asked for. @throws UNAUTHENTICATED */
  callerOf(headers: Request["headers"]): string {
    if (this.#names.size === 0) return "";
    const [, key] = /^Bearer\s+(\S+)$/i.exec(headers.authorization ?? "") ?? [];
    const name = key === undefined ? undefined : this.#names.get(hashOf(key));
    if (name !== undefined) return name;
    const got = key === undefined ? "none" : "another";
    throw refusal(`Authorization: expected "Bearer" and one of the gateway's keys, got ${got}`, {
      code: "UNAUTHENTICATED",
    });
  }

  /** Counts a caller's request until the returned function is called. @throws RESOURCE_EXHAUSTED where it is one too many. */
  begin(caller: string): () => void {
    const count = this.#underWay.get(caller) ?? 0;
    if (this.#requestsMax > 0 && caller !== "" && count >= this.#requestsMax) {
      const message = `requests: expected at most ${this.#requestsMax} of ${caller} at a time, got one more`;
      throw refusal(message, { code: "RESOURCE_EXHAUSTED" });
    }
    this.#underWay.set(caller, count + 1);
    return () => {
      const left = (this.#underWay.get(caller) ?? 1) - 1;
      if (left > 0) this.#underWay.set(caller, left);
      else this.#underWay.delete(caller);
    };
  }
}
