// Where a command takes a folder, a repository of the Hub may stand as well: it is pulled into the shared cache, and the
// command goes on with the folder there.
import type { PulledRepo, PullOptions, RepoName } from "#packages/hub";
import { bytes } from "./format.ts";
import type { Io } from "./io.ts";
import { bar, StatusLine } from "./progress.ts";

/** Pulls with a line of progress. */
export async function pulled(io: Io, { id, revision }: RepoName, options: PullOptions = {}): Promise<PulledRepo> {
  const { hubSettings, pullRepo } = await import("#packages/hub");
  const status = new StatusLine(io);
  return pullRepo(id, {
    ...options,
    revision,
    settings: hubSettings(io.env),
    signal: io.signal,
    onProgress: ({ bytesDone, bytesTotal }) =>
      status.show(`${bar(bytesDone / Math.max(1, bytesTotal))}  ${bytes(bytesDone)} of ${bytes(bytesTotal)}  ${id}`),
  }).finally(() => status.clear());
}

/** The folder itself, or the snapshot of the repository that the text names, pulled with a line of progress. */
export async function localFolder(io: Io, text: string, options: PullOptions = {}): Promise<string> {
  const hub = await import("#packages/hub");
  return hub.localFolder(text, options, (name, given) => pulled(io, name, given));
}
