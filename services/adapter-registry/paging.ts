// Pages of a listing (AIP-158): one row more than asked for tells whether there is another page.
import { decodePageToken, encodePageToken, pageSizeOf } from "#packages/rpc";

export interface PageRequest {
  pageSize: number;
  pageToken: string;
}

export interface Page<T> {
  items: T[];
  /** Empty: this was the last one. */
  nextPageToken: string;
}

/** `read` returns rows after a position, `positionOf` is a row's own. */
export async function readPage<T>(
  listing: string,
  op: string,
  request: PageRequest,
  read: (after: string | undefined, limit: number) => Promise<T[]>,
  positionOf: (item: T) => string,
): Promise<Page<T>> {
  const size = pageSizeOf(request.pageSize);
  const rows = await read(decodePageToken(listing, request.pageToken, op), size + 1);
  const items = rows.slice(0, size);
  const last = items.at(-1);
  const isMore = rows.length > size && last !== undefined;
  return { items, nextPageToken: isMore ? encodePageToken(listing, positionOf(last)) : "" };
}
