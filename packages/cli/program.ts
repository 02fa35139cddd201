// The command line as a whole: which commands there are. What they do is in commands/.
import { Command } from "commander";
import nibble from "../../package.json" with { type: "json" };
import { addAdapters } from "./commands/adapters.ts";
import { addChat } from "./commands/chat.ts";
import { addData } from "./commands/data.ts";
import { addEstimate } from "./commands/estimate.ts";
import { addExport } from "./commands/export.ts";
import { addGenerate } from "./commands/generate.ts";
import { addJobs } from "./commands/jobs.ts";
import { addMerge } from "./commands/merge.ts";
import { addPull } from "./commands/pull.ts";
import { addPush } from "./commands/push.ts";
import { addQuantize } from "./commands/quantize.ts";
import { addStart } from "./commands/start.ts";
import { addTrain } from "./commands/train.ts";
import { commanderErrorLine, usageError } from "./errors.ts";
import type { Io } from "./io.ts";

/** Settings that commander hands on to the commands made after. */
function configured(io: Io): Command {
  return new Command("nibble")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      outputError: (text, write) => write(commanderErrorLine(text)),
    })
    .configureHelp({ helpWidth: 120 });
}

/** commander's own help command prints the whole help for a name that it does not know, and no error. */
function addHelp(parent: Command): void {
  const children = [...parent.commands];
  for (const child of children) if (child.commands.length > 0) addHelp(child);
  parent
    .command("help [command]")
    .description("print the help of a command")
    .action((name: string | undefined) => {
      const asked = name === undefined ? parent : children.find((child) => child.name() === name);
      const names = children.map((child) => child.name()).join(", ");
      if (asked === undefined) throw usageError(`help: expected one of ${names}, got ${name}`);
      asked.outputHelp();
    });
}

export function createProgram(io: Io): Command {
  const program = configured(io)
    .description("Fine-tunes and serves language models whose frozen base is stored in 4 bits (QLoRA).")
    .version(nibble.version, "--version", "print the version")
    .addHelpText(
      "after",
      "\nExit codes: 0 done, 1 failure, 2 wrong usage or bad input, 130 Ctrl-C." +
        "\nNIBBLE_DEBUG=1 shows the stack of an error; NIBBLE_ENDPOINT stands for --endpoint.",
    );
  addQuantize(program, io);
  addTrain(program, io);
  addEstimate(program, io);
  addData(program, io);
  addGenerate(program, io);
  addChat(program, io);
  addMerge(program, io);
  addExport(program, io);
  addPull(program, io);
  addPush(program, io);
  addAdapters(program, io);
  addJobs(program, io);
  addStart(program, io);
  addHelp(program);
  return program;
}
