// Where the Hub is, who asks, and where its files are kept: from the environment variables that Hugging Face's own tools
// read, so that all of them share one cache and one token. Where HF_ENDPOINT names none, the registry of this machine, if
// it runs, is asked before the public Hub.
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { NibbleError } from "#packages/errors";
import { readTextIfPresent } from "../files.ts";

export interface HubSettings {
  /** HF_ENDPOINT. Default: the public Hub. */
  endpoint: string;
  /** HF_TOKEN (or HUGGING_FACE_HUB_TOKEN), else the file HF_TOKEN_PATH (default: HF_HOME/token); null without one. */
  token: string | null;
  /** The file that it is read from where no variable has it. */
  tokenFile: string;
  /** HF_HUB_CACHE (or HUGGINGFACE_HUB_CACHE). Default: HF_HOME/hub, HF_HOME being ~/.cache/huggingface by default. */
  cacheDir: string;
  /** HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE: only what is in the cache. */
  isOffline: boolean;
  /**
   * The registry of this machine, to be asked first: NIBBLE_HUB, else what the registry of NIBBLE_HOME's stack noted when
   * it began to listen. Null with HF_ENDPOINT, or where there is none.
   */
  own: { endpoint: string; token: string | null } | null;
}

const publicHub = "https://huggingface.co";

/** A registry writes its address to this file of its folder, and removes it when it stops. */
export const hubUrlFileName = "hub-url";
const root = fileURLToPath(new URL("../../../", import.meta.url));

type Environment = Readonly<Record<string, string | undefined>>;

function expanded(path: string): string {
  return path.startsWith("~") ? join(homedir(), path.slice(1)) : path;
}

/** NIBBLE_HOME: where a stack of this machine keeps its files. */
export function nibbleHome(env: Environment): string {
  return resolve(env["NIBBLE_HOME"] || join(root, ".nibble"));
}

function ownHub(env: Environment): HubSettings["own"] {
  if (env["HF_ENDPOINT"]) return null;
  const noted = () => readTextIfPresent(join(nibbleHome(env), "registry", hubUrlFileName))?.trim();
  const text = env["NIBBLE_HUB"] ?? noted() ?? "";
  return text === ""
    ? null
    : { endpoint: endpointOf("NIBBLE_HUB", text), token: env["NIBBLE_REGISTRY_HUB_TOKEN"] || null };
}

function endpointOf(name: string, text: string): string {
  const endpoint = text.replace(/\/+$/, "");
  if (URL.canParse(endpoint) && /^https?:/.test(endpoint)) return endpoint;
  const message = `${name}: expected an address that begins with http:// or https://, got ${text}`;
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "hub" });
}

/** @throws INVALID_ARGUMENT for an endpoint that is no address. */
export function hubSettings(env: Environment = process.env): HubSettings {
  const cacheHome = env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  const home = expanded(env["HF_HOME"] || join(cacheHome, "huggingface"));
  const tokenFile = expanded(env["HF_TOKEN_PATH"] || join(home, "token"));
  const token = (env["HF_TOKEN"] || env["HUGGING_FACE_HUB_TOKEN"] || readTextIfPresent(tokenFile) || "").trim();
  return {
    endpoint: endpointOf("HF_ENDPOINT", env["HF_ENDPOINT"] || publicHub),
    token: token === "" ? null : token,
    tokenFile,
    cacheDir: expanded(env["HF_HUB_CACHE"] || env["HUGGINGFACE_HUB_CACHE"] || join(home, "hub")),
    isOffline: /^(1|on|yes|true)$/i.test(env["HF_HUB_OFFLINE"] || env["TRANSFORMERS_OFFLINE"] || ""),
    own: ownHub(env),
  };
}
