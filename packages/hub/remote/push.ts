// An adapter or a model folder to a repository: what the Hub has already is not sent, each file is sent again until it
// has arrived, and all of it becomes one commit. Pushing the same folder again changes nothing.
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { NibbleError } from "#packages/errors";
import { adapterConfigFileName, openAdapterFolder } from "../adapter-folder.ts";
import { readTextIfPresent } from "../files.ts";
import { openModelFolder } from "../model-folder.ts";
import type { RemoteFile } from "./cache.ts";
import { type CardFields, completedCard, frontMatterOf } from "./card.ts";
import { hasherOf } from "./download.ts";
import { type HubCall, hubFetch, type RetryLimits } from "./hub-fetch.ts";
import { hubLibrary } from "./library.ts";
import { isPickle, listRepo } from "./listing.ts";
import { chooseHub } from "./own-hub.ts";
import { repoNameOf } from "./repo-name.ts";
import { type HubSettings, hubSettings } from "./settings.ts";

const op = "push";
const cardName = "README.md";
/** Commits of others that come between reading the branch and writing it. */
const attemptsMax = 5;

export interface PushProgress {
  path: string;
  filesDone: number;
  filesTotal: number;
}

export interface PushOptions extends RetryLimits {
  /** Default: "main". */
  branch?: string;
  /** Only for a repository that is made. */
  isPrivate?: boolean;
  /** The commit's title. */
  message?: string;
  card?: CardFields;
  /** Default: from the environment. */
  settings?: HubSettings;
  signal?: AbortSignal;
  onProgress?: (progress: PushProgress) => void;
}

export interface PushedFolder {
  /** The branch's commit now. */
  sha: string;
  url: string;
  /** Files that were new or other there. */
  sent: string[];
  bytesSent: number;
  /** How many were there already. */
  unchanged: number;
  /** Files that are not pushed: pickles. */
  skipped: string[];
}

interface LocalFile {
  path: string;
  sizeBytes: number;
  /** Where it is; null for the card, whose text is here. */
  file: string | null;
  text: string;
}

/**
 * Pushes a folder that is a whole adapter or model.
 * @throws INVALID_ARGUMENT (no such folder, an adapter whose base nobody else can find), UNAUTHENTICATED,
 * PERMISSION_DENIED, UNAVAILABLE, ABORTED (others keep committing), FAILED_PRECONDITION (offline).
 */
export async function pushFolder(dir: string, id: string, options: PushOptions = {}): Promise<PushedFolder> {
  const { settings = hubSettings(), branch = "main" } = options;
  if (settings.isOffline) {
    const message = `${id}: expected to be allowed to send, HF_HUB_OFFLINE forbids it`;
    throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
  }
  const folder = resolve(dir);
  const kind = kindOf(folder);
  const { files, skipped } = localFiles(folder);
  const given = options.card?.baseModel;
  const base = given ?? baseOf(folder);
  const isKnown = given === undefined ? isPublicName(base) : repoNameOf(base) !== undefined;
  if (kind === "adapter" && !isKnown) refuseBase(folder, base);
  const texts = [cardOf(folder, id, base, options.card ?? {}), ...configOf(folder, base)];
  const all = [...files.filter((file) => !texts.some(({ path }) => path === file.path)), ...texts];
  try {
    const hub = await chooseHub(settings, { op, id, type: "model", mustExist: false, signal: options.signal });
    const push = new Push(id, branch, hub, options);
    await push.makeRepo();
    return { ...(await push.send(all)), skipped };
  } catch (thrown) {
    options.signal?.throwIfAborted();
    throw NibbleError.from(thrown, op);
  }
}

/** A folder that cannot be opened here is not pushed to others. */
function kindOf(folder: string): "adapter" | "model" {
  if (readTextIfPresent(join(folder, adapterConfigFileName)) !== undefined) {
    openAdapterFolder(folder).close();
    return "adapter";
  }
  openModelFolder(folder).close();
  return "model";
}

function localFiles(folder: string): { files: LocalFile[]; skipped: string[] } {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => name.replaceAll("\\", "/"));
  const isOurs = (name: string) => !name.split("/").some((part) => part.startsWith(".") || part.includes(".partial-"));
  const plain = names.filter((name) => isOurs(name) && statSync(join(folder, name)).isFile()).sort();
  const files = plain
    .filter((path) => !isPickle(path))
    .map((path) => ({ path, sizeBytes: statSync(join(folder, path)).size, file: join(folder, path), text: "" }));
  return { files, skipped: plain.filter(isPickle) };
}

function textFile(path: string, text: string): LocalFile {
  return { path, sizeBytes: Buffer.byteLength(text), file: null, text };
}

function cardOf(folder: string, id: string, base: string, fields: CardFields): LocalFile {
  const readme = readTextIfPresent(join(folder, cardName)) ?? "";
  const named = fields.baseModel === undefined && isPublicName(base) ? { ...fields, baseModel: base } : fields;
  return textFile(cardName, completedCard(readme, basename(id), named));
}

/** An adapter's configuration as others need it: the base by its name, where the folder names a path of this machine. */
function configOf(folder: string, base: string): LocalFile[] {
  const text = readTextIfPresent(join(folder, adapterConfigFileName));
  if (text === undefined || isPublicName(configuredBase(text))) return [];
  const named = text.replace(/("base_model_name_or_path"\s*:\s*)(null|"(?:[^"\\]|\\.)*")/, `$1${JSON.stringify(base)}`);
  return [textFile(adapterConfigFileName, named)];
}

function configuredBase(config: string): string {
  const base: unknown = JSON.parse(config)["base_model_name_or_path"];
  return typeof base === "string" ? base : "";
}

/** The base by the name that others know: from the card, the adapter's configuration, or the card of the base's folder. */
function baseOf(folder: string): string {
  const inCard = (dir: string) => {
    const base = frontMatterOf(readTextIfPresent(join(dir, cardName)) ?? "")["base_model"];
    return typeof base === "string" ? base : "";
  };
  const config = readTextIfPresent(join(folder, adapterConfigFileName));
  const configured = config === undefined ? "" : configuredBase(config);
  const candidates = [configured, inCard(folder), ...(configured === "" ? [] : [inCard(configured)])];
  return candidates.find(isPublicName) ?? configured;
}

/** "models/quickstart" has the form of a name, and may be a folder of this machine all the same. */
function isPublicName(base: string): boolean {
  return repoNameOf(base) !== undefined && !existsSync(base);
}

function refuseBase(folder: string, base: string): never {
  const got = base === "" ? "none" : base;
  const message = `${folder}: base_model: expected the base as org/name, got ${got}, which others cannot find; name it (--base-model)`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
}

class Push {
  readonly #id: string;
  readonly #branch: string;
  readonly #settings: HubSettings;
  readonly #options: PushOptions;
  readonly #call: HubCall;

  constructor(id: string, branch: string, settings: HubSettings, options: PushOptions) {
    this.#id = id;
    this.#branch = branch;
    this.#settings = settings;
    this.#options = options;
    const { attemptsMax: attempts, waitMsFirst, waitMsMax, signal } = options;
    const limits = {
      ...(attempts === undefined ? {} : { attemptsMax: attempts }),
      ...(waitMsFirst === undefined ? {} : { waitMsFirst }),
      ...(waitMsMax === undefined ? {} : { waitMsMax }),
    };
    this.#call = { ...limits, settings, op, what: id, signal };
  }

  /** One that is there is as good. */
  async makeRepo(): Promise<void> {
    const { createRepo } = await hubLibrary();
    const { isPrivate } = this.#options;
    try {
      // The token is hubFetch's; the library would take none that does not begin with "hf_".
      await createRepo({
        ...this.#where(),
        ...(isPrivate === undefined ? {} : { visibility: isPrivate ? "private" : "public" }),
      } as Parameters<typeof createRepo>[0]);
    } catch (thrown) {
      if (NibbleError.from(thrown).code !== "ALREADY_EXISTS") throw thrown;
    }
  }

  /** Commits what differs from the branch, as often as others are faster. */
  async send(files: readonly LocalFile[]): Promise<Omit<PushedFolder, "skipped">> {
    for (let attempt = 1; ; attempt++) {
      const head = await listRepo({ id: this.#id, type: "model", revision: this.#branch, call: this.#call });
      const changed = await this.#changedOf(files, head.files);
      const facts = {
        sent: changed.map(({ path }) => path),
        bytesSent: changed.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
        unchanged: files.length - changed.length,
        url: `${this.#settings.endpoint}/${this.#id}`,
      };
      if (changed.length === 0) return { ...facts, sha: head.sha };
      try {
        return { ...facts, sha: await this.#commit(changed, head.sha) };
      } catch (thrown) {
        // Or our own commit, whose answer was lost: then the next look finds nothing that differs.
        if (NibbleError.from(thrown).code !== "ABORTED" || attempt >= attemptsMax) throw thrown;
      }
    }
  }

  async #changedOf(files: readonly LocalFile[], there: readonly RemoteFile[]): Promise<LocalFile[]> {
    const byPath = new Map(there.map((file) => [file.path, file]));
    const changed: LocalFile[] = [];
    for (const file of files) {
      this.#options.signal?.throwIfAborted();
      const remote = byPath.get(file.path);
      if (!remote || remote.sizeBytes !== file.sizeBytes || !(await isSame(file, remote))) changed.push(file);
    }
    return changed;
  }

  async #commit(files: readonly LocalFile[], parentCommit: string): Promise<string> {
    const { commitIter } = await hubLibrary();
    const { signal, onProgress, message = "Push with Nibble" } = this.#options;
    const commits = commitIter({
      ...this.#where(),
      branch: this.#branch,
      title: message,
      parentCommit,
      operations: files.map(({ path, file, text }) => ({
        operation: "addOrUpdate" as const,
        path,
        content: file === null ? new Blob([text]) : pathToFileURL(file),
      })),
      ...(signal ? { abortSignal: signal } : {}),
    });
    const done = new Set<string>();
    for (;;) {
      const next = await commits.next();
      if (next.done) return next.value?.commit.oid ?? "";
      if (next.value.event !== "fileProgress") continue;
      const { path, progress, state } = next.value;
      if (state === "uploading" && progress === 1) done.add(path);
      onProgress?.({ path, filesDone: done.size, filesTotal: files.length });
    }
  }

  #where() {
    const { endpoint } = this.#settings;
    return { repo: { type: "model" as const, name: this.#id }, hubUrl: endpoint, fetch: hubFetch(this.#call) };
  }
}

/** Whether the Hub's file has the bytes of this one, by the hash that the Hub lists. */
async function isSame({ file, text, sizeBytes }: LocalFile, { sha256, gitId }: RemoteFile): Promise<boolean> {
  const hash = hasherOf({ sha256, sizeBytes });
  if (file === null) hash.update(text);
  else if (sizeBytes < 1 << 20) hash.update(readFileSync(file));
  else for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(piece as Buffer);
  return hash.digest("hex") === (sha256 ?? gitId);
}
