// Pages of other origins that may call (Fetch Standard, "CORS protocol"): who they are is the server's setting.
import type { Answer, Request } from "./types.ts";

/** Time for which a browser need not ask again, in seconds; more than this most of them do not take. */
const maxAge = "7200";

const isNamed = (origin: string | undefined, origins: readonly string[]): origin is string =>
  origin !== undefined && origins.includes(origin);

/** Headers of every answer to such a page; none for others. */
export function corsHeaders({ origin }: Request["headers"], origins: readonly string[]): Record<string, string> {
  if (!isNamed(origin, origins)) return {};
  return { "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*", Vary: "Origin" };
}

/** The answer to a browser that asks whether a page may send what it wants to; undefined for other requests. */
export function preflight(
  method: string,
  headers: Request["headers"],
  { origins, allowed }: { origins: readonly string[]; allowed: readonly string[] },
): Answer | undefined {
  const asked = headers["access-control-request-method"];
  if (method !== "OPTIONS" || asked === undefined || !isNamed(headers.origin, origins)) return undefined;
  return {
    status: 204,
    headers: {
      "Access-Control-Allow-Methods": allowed.join(", "),
      // Named one by one: for Authorization no "*" stands.
      "Access-Control-Allow-Headers": String(headers["access-control-request-headers"] ?? ""),
      "Access-Control-Max-Age": maxAge,
    },
  };
}
