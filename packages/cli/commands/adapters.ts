// nibble adapters: versions of adapters in the registry, of a running stack or of this machine's own folder.
import type { Command } from "commander";
import type { Io } from "../io.ts";
import { collect, endpointOption, jsonOption, outOption } from "../options.ts";

export interface AdapterOptions {
  endpoint?: string;
  json?: boolean;
}

export interface PushOptions extends AdapterOptions {
  name: string;
  alias: string[];
  baseDigest?: string;
}

export interface AliasChange {
  id: string;
  alias: string;
  version: string | undefined;
  isDelete: boolean;
}

const work = () => import("./adapters-work.ts");

export function addAdapters(program: Command, io: Io): void {
  const adapters = program
    .command("adapters")
    .description("keep versions of adapters; an ADAPTER is id, id@version or id@alias");
  const command = (name: string, help: string) =>
    adapters.command(name).description(help).addOption(endpointOption()).addOption(jsonOption());
  command("list [id]", "all adapters, or the versions of one").action(
    async (id: string | undefined, options: AdapterOptions) => (await work()).runList(io, options, id),
  );
  command("push <dir>", "store an adapter folder as a new version")
    .requiredOption("--name <id>", "the adapter's id: lower-case letters, digits, hyphens")
    .option("--alias <alias>", "point this at the new version; may be given again", collect, [])
    .option("--base-digest <digest>", "digest of its base, for an adapter that does not say")
    .action(async (dir: string, options: PushOptions) => (await work()).runPush(io, options, dir));
  command("pull <adapter>", "fetch a version into a folder")
    .addOption(outOption("dir", "folder to write"))
    .action(async (adapter: string, options: AdapterOptions & { out: string }) =>
      (await work()).runPull(io, options, adapter, options.out),
    );
  command("alias <id> <alias> [version]", "point an alias at a version")
    .option("--delete", "remove the alias instead")
    .action(async (id: string, alias: string, version: string | undefined, options: AliasFlags) =>
      (await work()).runAlias(io, options, { id, alias, version, isDelete: options.delete ?? false }),
    );
}

interface AliasFlags extends AdapterOptions {
  delete?: boolean;
}
