// What a revision of a repository is: its commit, and the files of that commit, checked before anything is done by them.
import { NibbleError } from "#packages/errors";
import { checkInnerPaths } from "../inner-path.ts";
import { contentIdOf, type RemoteFile, type RepoType } from "./cache.ts";
import { type HubCall, hubFetch } from "./hub-fetch.ts";
import { hubLibrary } from "./library.ts";

/** Formats that run code when they are loaded. */
const pickles = /\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy)$/i;

export function isPickle(path: string): boolean {
  return pickles.test(path);
}

export const isSha = (text: string): boolean => /^[0-9a-f]{40}$/.test(text);

export interface RevisionRequest {
  id: string;
  type: RepoType;
  /** A branch, a tag or a commit. */
  revision: string;
  call: HubCall;
}

/** The revision's commit and its files. */
export async function listRepo(request: RevisionRequest): Promise<{ sha: string; files: RemoteFile[] }> {
  const sha = await shaOf(request);
  return { sha, files: await filesOf(request, sha) };
}

async function shaOf({ id, revision, type, call }: RevisionRequest): Promise<string> {
  if (isSha(revision)) return revision;
  const { modelInfo, datasetInfo } = await hubLibrary();
  const request = { name: id, revision, hubUrl: call.settings.endpoint, fetch: hubFetch(call) };
  const { sha } = await (type === "model"
    ? modelInfo({ ...request, additionalFields: ["sha"] })
    : datasetInfo({ ...request, additionalFields: ["sha"] }));
  if (isSha(sha)) return sha;
  throw new NibbleError(`${id}@${revision}: expected the sha of a commit, got ${sha}`, {
    code: "DATA_LOSS",
    op: call.op,
  });
}

async function filesOf({ id, type, call }: RevisionRequest, sha: string): Promise<RemoteFile[]> {
  const { listFiles } = await hubLibrary();
  const files: RemoteFile[] = [];
  const entries = listFiles({
    repo: { type, name: id },
    revision: sha,
    recursive: true,
    hubUrl: call.settings.endpoint,
    fetch: hubFetch(call),
  });
  for await (const { type: kind, path, size, oid = "", lfs } of entries) {
    if (kind === "file") files.push({ path, sizeBytes: lfs?.size ?? size, gitId: oid, sha256: lfs?.oid ?? null });
  }
  checkListing(id, files, call.op);
  return files;
}

/** No name may lead out of its folder, no content id out of the blobs. */
function checkListing(id: string, files: readonly RemoteFile[], op: string): void {
  checkInnerPaths(
    files.map(({ path }) => path),
    op,
  );
  for (const file of files) {
    const isId = /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(contentIdOf(file));
    // A drive of Windows is no folder of ours.
    if (isId && Number.isSafeInteger(file.sizeBytes) && !/(^|\/)[A-Za-z]:/.test(file.path)) continue;
    const message = `${id}: ${JSON.stringify(file.path.slice(0, 200))}: expected a relative path, a size and a hash in the listing`;
    throw new NibbleError(message, { code: "INVALID_ARGUMENT", op, details: { path: file.path } });
  }
}
