// Lists that come in pages (AIP-158).

/** The pages of a list, each asked for when it is wanted. `read` gives the page of a token; "": the first. */
export async function* pagesOf<Page extends { nextPageToken: string }>(
  read: (pageToken: string) => Promise<Page>,
): AsyncGenerator<Page> {
  let pageToken = "";
  do {
    const page = await read(pageToken);
    yield page;
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}
