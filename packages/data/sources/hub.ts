// Data sets of the Hub: their files in the cache that Hugging Face's tools share, pulled where they are not there.
import { join } from "node:path";
import { pullRepo, type RepoName } from "#packages/hub";
import { pathsOf } from "./files.ts";

/**
 * Brings a data set's files to this machine and says where they are.
 * @param select picks those that are wanted from the repository's paths; it may throw.
 */
export type FetchDataset = (
  name: RepoName,
  select: (paths: readonly string[]) => string[],
  signal: AbortSignal,
) => Promise<string[]>;

export const fetchFromHub: FetchDataset = async ({ id, revision }, select, signal) => {
  const { folder, files } = await pullRepo(id, { type: "dataset", revision, select, signal });
  // An older tool's cache has no list of the files.
  return select(files.length > 0 ? files : pathsOf(folder)).map((path) => join(folder, path));
};
