// Where a command takes a folder, a repository of the Hub may stand as well: it is pulled into the shared cache, and the
// command goes on with the folder there.
import { existsSync } from "node:fs";
import { dirname } from "node:path";
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

/**
 * The folder itself if it is there, or the snapshot of the repository that the text names. "models/x" is a path where
 * there is a folder "models".
 */
export async function localFolder(io: Io, text: string): Promise<string> {
  if (existsSync(text) || existsSync(dirname(text))) return text;
  const { repoNameOf } = await import("#packages/hub");
  const name = repoNameOf(text);
  // What is neither is left to whoever opens it: its error names the place.
  return name ? (await pulled(io, name)).folder : text;
}
