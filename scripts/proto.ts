// `npm run proto [-- generate|lint|breaking|baseline|image|deps]`: everything that is done with proto/.
// Default: generate. proto/README.md says when to use which.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { file_buf_validate_validate } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { printProto } from "./proto-print.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const depsFolder = join(root, "build", "proto-deps");
const require = createRequire(import.meta.url);

/** Files that npm packages ship, and the path under which .proto files import them. */
const shipped: Record<string, string[]> = {
  "google-proto-files": [
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
    "google/longrunning/operations.proto",
    "google/api/annotations.proto",
    "google/api/client.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/api/launch_stage.proto",
  ],
  "grpc-health-check/proto": ["health/v1/health.proto -> grpc/health/v1/health.proto"],
  "@grpc/reflection/build/proto": ["grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"],
};

/** The buf binary. It comes as an optional dependency of @bufbuild/buf; no install script is needed. */
function bufBinary(): string {
  const arch = process.arch === "arm64" && process.platform === "linux" ? "aarch64" : process.arch;
  const name = `@bufbuild/buf-${process.platform}-${arch}/bin/buf`;
  return createRequire(require.resolve("@bufbuild/buf/package.json")).resolve(name);
}

/** Puts the imported .proto files where buf.yaml expects them: build/proto-deps. Safe to run twice at a time. */
function writeDependencies(): void {
  const texts = new Map<string, string>([["buf/validate/validate.proto", printProto(file_buf_validate_validate)]]);
  for (const [folder, files] of Object.entries(shipped)) {
    for (const file of files) {
      const [from = "", to = from] = file.split(" -> ");
      texts.set(to, readFileSync(join(root, "node_modules", folder, from), "utf8"));
    }
  }
  for (const [name, text] of texts) {
    const target = join(depsFolder, name);
    if (existsSync(target) && readFileSync(target, "utf8") === text) continue;
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(`${target}.${process.pid}`, text);
    renameSync(`${target}.${process.pid}`, target);
  }
}

function buf(args: string[]): void {
  const result = spawnSync(bufBinary(), args, { cwd: root, encoding: "utf8", maxBuffer: 1 << 26 });
  if (result.error) throw result.error;
  if (result.status !== 0) {
    process.stderr.write(`${result.stdout}${result.stderr}buf ${args[0]} failed (exit ${result.status})\n`);
    process.exit(1);
  }
}

/** Writes the TypeScript of every .proto file under `out`. */
export function generate(out: string): void {
  writeDependencies();
  rmSync(out, { recursive: true, force: true });
  const plugin = {
    local: [
      process.execPath,
      join(dirname(require.resolve("@bufbuild/protoc-gen-es/package.json")), "bin/protoc-gen-es"),
    ],
    out,
    opt: [
      "target=ts",
      "import_extension=ts",
      "erasable_syntax=true",
      "rewrite_imports=./buf/validate/*_pb.js:@bufbuild/protovalidate/gen",
    ],
  };
  buf([
    "generate",
    "--template",
    JSON.stringify({ version: "v2", plugins: [plugin] }),
    "--exclude-path",
    "build/proto-deps/buf",
  ]);
}

/** The compiled protos with comments, for the API reference. */
export function image(out: string): void {
  writeDependencies();
  mkdirSync(dirname(out), { recursive: true });
  buf(["build", "proto", "-o", out]);
}

const baseline = join(root, "proto", "baseline.binpb");

const commands: Record<string, () => void> = {
  generate: () => generate(join(root, "packages/rpc/gen")),
  deps: writeDependencies,
  lint: () => {
    writeDependencies();
    buf(["lint", "proto"]);
    buf(["format", "proto", "--diff", "--exit-code"]);
  },
  format: () => buf(["format", "proto", "--write"]),
  breaking: () => {
    writeDependencies();
    buf(["breaking", "proto", "--against", baseline]);
  },
  baseline: () => {
    writeDependencies();
    buf(["build", "proto", "-o", baseline, "--exclude-source-info"]);
  },
  image: () => image(join(root, "build/proto/image.binpb")),
};

if (import.meta.main) {
  const { positionals } = parseArgs({ allowPositionals: true });
  const name = positionals[0] ?? "generate";
  const command = commands[name];
  if (!command || !existsSync(join(root, "node_modules"))) {
    process.stderr.write(`expected one of ${Object.keys(commands).join(", ")}, got ${name}\n`);
    process.exit(2);
  }
  command();
}
