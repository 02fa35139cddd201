// Where a folder is asked for, a repository of the Hub may be named as well: it is pulled into the shared cache, and the
// work goes on with the folder there. The command line and the services have this one rule.
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { type PulledRepo, type PullOptions, pullRepo } from "./pull.ts";
import { type RepoName, repoNameOf } from "./repo-name.ts";

/**
 * The repository that a text names; undefined where it is a path: of something that is there, or below a folder that is
 * ("models/x" where there is a folder "models").
 */
export function repoInPlaceOf(text: string): RepoName | undefined {
  return existsSync(text) || existsSync(dirname(text)) ? undefined : repoNameOf(text);
}

export type Pull = (name: RepoName, options: PullOptions) => Promise<PulledRepo>;

const fromHub: Pull = ({ id, revision }, options) => pullRepo(id, { ...options, revision });

/** Files that say what a model is, without its weights: enough to tokenize rows and to count. */
export const describingFiles = ["*.json", "*.jinja"] as const;

/**
 * The text itself where it is a path, or the snapshot of the repository that it names. What is neither is left to
 * whoever opens it: its error names the place.
 * @throws what pullRepo throws.
 */
export async function localFolder(text: string, options: PullOptions = {}, pull: Pull = fromHub): Promise<string> {
  const name = repoInPlaceOf(text);
  return name ? (await pull(name, options)).folder : text;
}
