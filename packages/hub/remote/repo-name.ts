// "org/name" or "org/name@revision": how a repository of the Hub is named where a folder may stand as well.
import { NibbleError } from "#packages/errors";

export interface RepoName {
  /** "org/name". */
  id: string;
  /** A branch, a tag or a commit's sha. */
  revision: string;
}

export const defaultRevision = "main";
const part = /^[A-Za-z0-9_][\w.-]{0,95}$/;

/** The repository that a text names; undefined where it cannot be one: a path is not. */
export function repoNameOf(text: string): RepoName | undefined {
  const [, id = "", revision = defaultRevision] = /^([^@]+)(?:@(.+))?$/.exec(text) ?? [];
  const parts = id.split("/");
  if (parts.length !== 2 || !parts.every((one) => part.test(one) && !/--|\.\.|[.-]$/.test(one))) return undefined;
  if (revision.startsWith("/") || revision.split("/").some((one) => one === "" || one === "..")) return undefined;
  return { id, revision };
}

/** @throws INVALID_ARGUMENT where the text is no such name. */
export function parseRepoName(text: string, op: string): RepoName {
  const name = repoNameOf(text);
  if (name) return name;
  throw new NibbleError(`${text}: expected org/name or org/name@revision`, { code: "INVALID_ARGUMENT", op });
}

/** The repository and commit of a folder that is a snapshot in the cache; undefined for other folders. */
export function repoOfSnapshot(folder: string): RepoName | undefined {
  const match = /(?:^|[/\\])models--([^/\\]+)[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]?$/.exec(folder);
  const id = match?.[1]?.split("--").join("/");
  return id === undefined || !match?.[2] ? undefined : { id, revision: match[2] };
}
