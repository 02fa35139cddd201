// `npm run docs:cli`: writes docs/cli.md from the command line's own help. test/cli/reference.test.ts fails when the
// page is stale.
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import type { Io } from "../packages/cli/io.ts";
import { createProgram } from "../packages/cli/program.ts";

const { stdin, stdout, stderr } = process;
const io: Io = { stdin, stdout, stderr, env: {}, signal: new AbortController().signal };

const opening = `# The command line

Made from \`nibble --help\` by \`npm run docs:cli\`; do not edit.

From the repository's root, \`npx nibble …\` and \`npm run -s nibble -- …\` are the same. Both install and build what is
missing and say so on stderr; stdout has results only.

A command does its work in its own process unless \`--endpoint host:port\` names a running stack (\`npm start\` prints its
address). Paths are then made absolute and are paths on the stack's machine.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failure: out of memory, a stack that cannot be reached, a defect |
| 2 | wrong usage or bad input: one line says what was expected and what came |
| 130, 143 | stopped by Ctrl-C or SIGTERM; nothing half-written is left |

An error is one line, \`error: [operation] message\`. \`NIBBLE_DEBUG=1\` shows its stack.

\`nibble train\` takes its settings from flags, then \`--config recipe.yaml\` (the same names with \`_\`), then the defaults.
It writes an adapter folder that Python PEFT loads, and \`metrics.jsonl\` with a row a step: step, loss, grad_norm, lr,
tokens, seconds.

\`nibble generate --json\` prints one object: \`token_ids\` (the new ones), \`text\`, \`prefill_tokens_per_second\`,
\`decode_tokens_per_second\` (0 where nothing was decoded after the first token), \`finish_reason\`, \`prompt_tokens\`, and
with \`--logits\` the \`logits\` from which the last token was chosen, with \`--logprobs\` for each token \`id\`, \`text\`,
\`logprob\` and \`top\`, the likeliest in its place. With \`--n\` there are \`answers\`, one such object each.
`;

function sections(command: Command, path: string): string[] {
  const children = command.commands.filter((child) => child.name() !== "help");
  const own = `\n## ${path}\n\n\`\`\`text\n${command.helpInformation().trimEnd()}\n\`\`\`\n`;
  return [own, ...children.flatMap((child) => sections(child, `${path} ${child.name()}`))];
}

export function cliReference(): string {
  const program = createProgram(io);
  return opening + sections(program, program.name()).join("");
}

if (import.meta.main) {
  writeFileSync(fileURLToPath(new URL("../docs/cli.md", import.meta.url)), cliReference());
}
