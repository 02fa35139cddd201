// nibble push: an adapter or a model folder to a repository of the Hub, with a model card.
import { type Command, InvalidArgumentError } from "commander";
import type { PushOptions } from "#packages/hub";
import { bytes } from "../format.ts";
import { type Io, line, printJson } from "../io.ts";
import { collect, jsonOption } from "../options.ts";
import { StatusLine } from "../progress.ts";

interface Options {
  branch: string;
  private?: boolean;
  message?: string;
  baseModel?: string;
  license?: string;
  dataset: string[];
  tag: string[];
  metric: Record<string, number>;
  json?: boolean;
}

/** "loss=0.18". */
function metric(text: string, before: Record<string, number>): Record<string, number> {
  const [, name = "", value = ""] = /^([^=]+)=(.+)$/.exec(text) ?? [];
  if (name !== "" && value !== "" && Number.isFinite(Number(value))) return { ...before, [name]: Number(value) };
  throw new InvalidArgumentError("expected name=number, such as loss=0.18");
}

export function addPush(program: Command, io: Io): void {
  program
    .command("push")
    .description("send an adapter or a model folder to the Hub, as one commit of what is new there")
    .argument("<dir>", "folder of an adapter or a model")
    .argument("<repo>", "org/name; it is made if need be")
    .option("--branch <name>", "branch to commit to", "main")
    .option("--private", "make the repository a private one")
    .option("--message <text>", "the commit's title (default: Push with Nibble)")
    .option("--base-model <repo>", "of the card: the base, as org/name (default: what the adapter says)")
    .option("--license <id>", "of the card, such as apache-2.0")
    .option("--dataset <id>", "of the card: what it was trained on; may be given again", collect, [])
    .option("--tag <tag>", "of the card; may be given again", collect, [])
    .option("--metric <name=number>", "of the card: a figure that was measured; may be given again", metric, {})
    .addOption(jsonOption())
    .addHelpText(
      "after",
      "\nHF_ENDPOINT says which Hub (default: the registry of this machine while it runs, else the public one), HF_TOKEN (or\nthe token file) who pushes.",
    )
    .action((dir: string, repo: string, options: Options) => push(io, { dir, repo }, options));
}

function pushOptionsOf(options: Options): PushOptions {
  const { branch, message, baseModel, license, dataset: datasets, tag: tags, metric: metrics } = options;
  return {
    branch,
    card: {
      datasets,
      tags,
      metrics,
      ...(baseModel === undefined ? {} : { baseModel }),
      ...(license === undefined ? {} : { license }),
    },
    ...(options.private === undefined ? {} : { isPrivate: options.private }),
    ...(message === undefined ? {} : { message }),
  };
}

async function push(io: Io, { dir, repo }: { dir: string; repo: string }, options: Options): Promise<void> {
  const { hubSettings, parseRepoName, pushFolder } = await import("#packages/hub");
  const { id } = parseRepoName(repo, "push");
  const status = new StatusLine(io);
  const pushed = await pushFolder(dir, id, {
    ...pushOptionsOf(options),
    settings: hubSettings(io.env),
    signal: io.signal,
    onProgress: ({ path, filesDone, filesTotal }) => status.show(`${filesDone}/${filesTotal} files  ${path}`),
  }).finally(() => status.clear());
  const { sha, url, sent, bytesSent, unchanged, skipped } = pushed;
  if (options.json) return printJson(io, { repo: id, sha, url, sent, bytes_sent: bytesSent, unchanged, skipped });
  line(io.stdout, `${url} is at commit ${sha}`);
  line(
    io.stderr,
    sent.length === 0
      ? "it has all of it: nothing to send"
      : `${sent.length} files sent, ${bytes(bytesSent)}; ${unchanged} were there`,
  );
  if (skipped.length > 0) line(io.stderr, `left out, as a pickle can run code: ${skipped.join(", ")}`);
}
