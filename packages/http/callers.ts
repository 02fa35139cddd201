// Who may talk to a server that asks for no key: this machine's own programs, but not the web pages it looks at.
import { NibbleError } from "#packages/errors";
import type { Request } from "./types.ts";

const loopback = /^(localhost|127(\.\d+){3}|\[?::1\]?)$/;

/** Whether only this machine reaches an address. */
export function isLoopback(host: string): boolean {
  return loopback.test(host);
}

/**
 * Pages in a browser of this machine reach its ports as well: requests of other sites are refused, and with `isLocal`
 * those that came here by another name (DNS rebinding). `what` is the server and what it lacks, for the message.
 * @throws PERMISSION_DENIED
 */
export function checkCaller(
  { origin, host = "" }: Request["headers"],
  { isLocal, origins = [], what }: { isLocal: boolean; origins?: readonly string[]; what: string },
): void {
  const refuse = (message: string): never => {
    throw new NibbleError(message, { code: "PERMISSION_DENIED", op: "http" });
  };
  if (origin !== undefined && hostOf(origin) !== host && !origins.includes(origin)) {
    refuse(`Origin: expected none or http://${host}, got ${origin}`);
  }
  if (isLocal && !isLoopback(host.replace(/:\d+$/, ""))) refuse(`Host: expected localhost, got ${host}: ${what}`);
}

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}
