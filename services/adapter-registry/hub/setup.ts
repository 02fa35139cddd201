// Puts the hub together from the registry's parts.
import { join, resolve } from "node:path";
import type { Logger } from "pino";
import type { HttpServer } from "#packages/http";
import type { Turns } from "#packages/jobs";
import type { BlobFolder } from "../blobs.ts";
import type { Config } from "../config.ts";
import type { Versions } from "../versions.ts";
import { Access } from "./access.ts";
import { Commits } from "./commits.ts";
import { Objects } from "./objects.ts";
import { ReadApi } from "./read-api.ts";
import { Repos } from "./repos.ts";
import { HubServer } from "./server.ts";
import type { HubStore } from "./store.ts";
import { WriteApi } from "./write-api.ts";
import { XetApi } from "./xet/xet-api.ts";
import { XorbFolder } from "./xet/xorb-folder.ts";

export interface HubParts {
  now: () => number;
  logger: Logger;
  blobs: BlobFolder;
  store: HubStore;
  turns: Turns;
  versions: Versions;
}

export async function openHub(config: Config, parts: HubParts): Promise<HttpServer> {
  const { now, logger, blobs, store, turns, versions } = parts;
  const access = new Access(now, { token: config.hubToken, host: config.host });
  const repos = new Repos(now, store, versions);
  const limits = { ...config, objectBytesMax: config.versionBytesMax };
  const objects = new Objects(now, blobs, store, turns, limits);
  const commits = new Commits(now, blobs, store, turns);
  const xorbs = new XorbFolder(now, join(resolve(config.dir), "xet"));
  const routes = [
    ...new XetApi({ access, repos, objects, xorbs }).routes(),
    ...new WriteApi(now, { access, repos, commits, objects }).routes(),
    ...new ReadApi({ access, repos, blobs }).routes(),
  ];
  const check = access.checkCaller.bind(access);
  return HubServer.start({ routes, host: config.host, port: config.hubPort, logger, check });
}
