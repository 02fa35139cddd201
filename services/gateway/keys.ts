// Who calls. With keys, whoever sends one; without, whoever reaches the port, which is then this machine's alone.
import { createHash } from "node:crypto";
import { checkCaller, isLoopback, type Request } from "#packages/http";
import type { Config } from "./config.ts";
import { refusal } from "./errors.ts";

const hashOf = (key: string): string => createHash("sha256").update(key).digest("hex");
/** Of a key that has no name: enough to tell callers apart, nothing of the key. */
const nameChars = 12;

export class Keys {
  /** Names by the sha256 of their keys: a look-up takes as long whatever a wrong key has right. */
  readonly #names: ReadonlyMap<string, string>;
  readonly #host: string;
  readonly #origins: readonly string[];

  constructor({ keys, host, origins }: Pick<Config, "keys" | "host" | "origins">) {
    this.#names = new Map(
      keys.map((text) => {
        const [, name, key = ""] = /^(?:([\w.-]+)=(?!=|$))?(.+)$/.exec(text) ?? [];
        return [hashOf(key), name ?? hashOf(key).slice(0, nameChars)];
      }),
    );
    this.#host = host;
    this.#origins = origins;
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
}
