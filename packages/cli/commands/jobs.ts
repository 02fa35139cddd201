// nibble jobs: the training jobs of a running stack.
import type { Command } from "commander";
import type { Io } from "../io.ts";
import { jsonOption } from "../options.ts";
import { endpointDefault } from "../stack/config.ts";
import type { JobsCommand } from "./jobs-work.ts";

export interface JobsOptions {
  endpoint?: string;
  json?: boolean;
}

export function addJobs(program: Command, io: Io): void {
  const jobs = program.command("jobs").description("see and stop the training jobs of a running stack");
  const run = async (command: JobsCommand, options: JobsOptions, id = "") =>
    (await import("./jobs-work.ts")).runJobs(io, options, command, id);
  const command = (name: string, help: string) =>
    jobs
      .command(name)
      .description(help)
      .option("--endpoint <host:port>", `of the stack (default: ${endpointDefault})`)
      .addOption(jsonOption());
  const onJob = (name: JobsCommand, help: string) =>
    command(`${name} <job>`, help).action((id: string, options: JobsOptions) => run(name, options, id));
  command("list", "all jobs, newest first").action((options: JobsOptions) => run("list", options));
  onJob("get", "one job");
  onJob("cancel", "stop a job within a step");
  onJob("watch", "follow a job to its end; Ctrl-C stops the watching, not the job");
}
