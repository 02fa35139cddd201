// nibble pull: a repository of the Hub into the cache that Hugging Face's tools share.
import { type Command, Option } from "commander";
import { bytes } from "../format.ts";
import { pulled } from "../hub-folder.ts";
import { type Io, line, printJson } from "../io.ts";
import { collect, jsonOption } from "../options.ts";

interface Options {
  type: "model" | "dataset";
  include: string[];
  exclude: string[];
  json?: boolean;
}

const environmentHelp =
  "\nHF_ENDPOINT, HF_TOKEN (or the token file), HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE mean what they mean for" +
  "\nHugging Face's own tools; without HF_ENDPOINT the registry of this machine is asked first, while it runs (NIBBLE_HUB)." +
  "\nPickles (*.bin, *.pt, *.pkl, …) are never fetched: they can run code when they are loaded.";

export function addPull(program: Command, io: Io): void {
  program
    .command("pull")
    .description("fetch a model, adapter or data set from the Hub into the shared cache")
    .argument("<repo>", "org/name or org/name@revision: a branch, a tag or a commit")
    .addOption(new Option("--type <type>", "of the repository").choices(["model", "dataset"]).default("model"))
    .option("--include <glob>", "only files that match; may be given again", collect, [])
    .option("--exclude <glob>", "no files that match; may be given again", collect, [])
    .addOption(jsonOption())
    .addHelpText("after", environmentHelp)
    .action((repo: string, options: Options) => pull(io, repo, options));
}

async function pull(io: Io, repo: string, { json, ...options }: Options): Promise<void> {
  const { parseRepoName } = await import("#packages/hub");
  const name = parseRepoName(repo, "pull");
  const result = await pulled(io, name, options);
  const { folder, sha, endpoint, files, bytesTotal, bytesFetched, skipped } = result;
  if (json) {
    const facts = { folder, sha, endpoint, files, bytes_total: bytesTotal, bytes_fetched: bytesFetched, skipped };
    return printJson(io, { repo: name.id, revision: name.revision, ...facts });
  }
  line(io.stdout, folder);
  const from = endpoint === null ? "" : ` from ${endpoint}`;
  const fetched = bytesFetched === 0 ? "nothing to fetch" : `${bytes(bytesFetched)} fetched${from}`;
  line(
    io.stderr,
    `${name.id}@${name.revision} is commit ${sha}: ${files.length} files, ${bytes(bytesTotal)}, ${fetched}`,
  );
  if (skipped.length > 0) line(io.stderr, `left out, as a pickle can run code: ${skipped.join(", ")}`);
}
