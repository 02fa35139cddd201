// Lists as OpenAI pages them: `after` is the id of the last entry seen, `limit` the number of entries.
import type { Fields } from "./fields.ts";

const limitMax = 10_000;

export interface PageOptions<T> {
  limitDefault: number;
  view: (entry: T) => unknown;
}

/** `limit` and `after` of a query, whose values are texts. */
export function pageQuery(query: Fields, limitDefault: number): { limit: number; after: string | undefined } {
  const text = query.text("limit");
  const limit = text === undefined ? limitDefault : Number(text);
  if (!Number.isSafeInteger(limit) || limit < 1 || limit > limitMax) {
    query.refuse("limit", `a whole number from 1 to ${limitMax}`);
  }
  return { limit, after: query.text("after") };
}

/** A page of entries that are all here. An `after` that is gone by now is no error: the list begins anew. */
export function pageOf<T extends { id: string }>(query: Fields, entries: readonly T[], options: PageOptions<T>) {
  const { limit, after } = pageQuery(query, options.limitDefault);
  query.end();
  const start = after === undefined ? 0 : entries.findIndex(({ id }) => id === after) + 1;
  return listOf(entries.slice(start, start + limit), entries.length > start + limit, options.view);
}

export function listOf<T extends { id: string }>(page: readonly T[], hasMore: boolean, view: (entry: T) => unknown) {
  return {
    object: "list",
    data: page.map(view),
    first_id: page[0]?.id ?? null,
    last_id: page.at(-1)?.id ?? null,
    has_more: hasMore,
  };
}
