// `npm test`: every check that CI makes, one after the other; the first failure stops it.
import { spawnSync } from "node:child_process";
import { globSync } from "node:fs";

const files = globSync(["native/**/*.test.ts", "packages/**/*.test.ts", "services/**/*.test.ts", "test/**/*.test.ts"]);

const steps: { name: string; command: string; args: string[] }[] = [
  { name: "types", command: process.execPath, args: ["node_modules/typescript/bin/tsc", "--noEmit"] },
  {
    name: "lint",
    command: process.execPath,
    args: ["node_modules/@biomejs/biome/bin/biome", "ci", "--error-on-warnings", "."],
  },
  { name: "buf lint", command: process.execPath, args: ["scripts/proto.ts", "lint"] },
  { name: "buf breaking", command: process.execPath, args: ["scripts/proto.ts", "breaking"] },
  { name: "tests", command: process.execPath, args: ["--test", "--test-reporter=spec", ...files.sort()] },
  { name: "demo, shortened", command: process.execPath, args: ["scripts/demo.ts", "--short"] },
];

for (const step of steps) {
  process.stdout.write(`\n== ${step.name}\n`);
  const result = spawnSync(step.command, step.args, { stdio: "inherit" });
  if (result.status !== 0) {
    process.stdout.write(`== ${step.name}: failed\n`);
    process.exit(1);
  }
}
