// Which Hub a call goes to: the registry of this machine where it answers (and has the repository, if one is to be read),
// else the one of the settings.
import { NibbleError } from "#packages/errors";
import type { RepoType } from "./cache.ts";
import { hubFetch } from "./hub-fetch.ts";
import type { HubSettings } from "./settings.ts";

interface Wanted {
  op: string;
  id: string;
  type: RepoType;
  /** Only a repository that is there will do. */
  mustExist: boolean;
  signal?: AbortSignal | undefined;
}

/** The settings to go on with; `own` of them is null where the registry of this machine has been chosen. */
export async function chooseHub(
  settings: HubSettings,
  { op, id, type, mustExist, signal }: Wanted,
): Promise<HubSettings> {
  if (settings.own === null) return settings;
  const own: HubSettings = { ...settings, ...settings.own, own: null };
  const path = mustExist ? `/${id}` : "?limit=1";
  // One attempt: the note of a registry that is gone may be left, and nobody listens there.
  const call = { settings: own, op, what: id, signal, attemptsMax: 1 };
  try {
    await hubFetch(call)(`${own.endpoint}/api/${type}s${path}`);
    return own;
  } catch (thrown) {
    const { code, details } = NibbleError.from(thrown);
    signal?.throwIfAborted();
    const isElsewhere = details["lost"] === "connection" || code === "NOT_FOUND";
    return isElsewhere ? settings : own;
  }
}
