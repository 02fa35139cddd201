// A table of routes. Some thirty lines of patterns, tried in order: no tree is needed for as few as a server has.
import { badRequest } from "./body.ts";
import type { Handler, Route } from "./types.ts";

/** ":name" stands for one part of a path, "*name" at the end for any number of them. */
export function route(methods: string, path: string, handler: Handler): Route[] {
  const source = path
    .replaceAll(".", "\\.")
    .replaceAll(/:(\w+)/g, "(?<$1>[^/]+?)")
    .replace(/\/\*(\w+)$/, "(?:/(?<$1>.*))?");
  const pattern = new RegExp(`^${source}$`);
  return methods.split(" ").map((method) => ({ method, path, pattern, handler }));
}

export interface Found {
  route: Route;
  /** Decoded. */
  params: Record<string, string>;
}

/** The route of a request; undefined where there is none. */
export function findRoute(routes: readonly Route[], method: string, path: string): Found | undefined {
  for (const one of routes) {
    const match = one.method === method ? one.pattern.exec(path) : null;
    if (!match) continue;
    const params = Object.entries(match.groups ?? {}).map(([name, text = ""]) => [name, decoded(text)]);
    return { route: one, params: Object.fromEntries(params) };
  }
  return undefined;
}

/** Methods that a path has routes for. */
export function methodsOf(routes: readonly Route[], path: string): string[] {
  return [...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))];
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw badRequest(`the path: expected percent-encoded UTF-8, got ${JSON.stringify(text.slice(0, 80))}`);
  }
}
