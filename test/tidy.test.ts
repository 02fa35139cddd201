// The rules of the tree that no other tool holds: who may import whom, how long files and functions are,
// which calls have one home. After TigerBeetle's tidy.
import assert from "node:assert/strict";
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const files = (patterns: string[]): string[] =>
  globSync(patterns, { cwd: root, exclude: (name) => name === "node_modules" || name === "build" || name === "gen" })
    .map((f) => f.replaceAll("\\", "/"))
    .filter((f) => !f.startsWith("build/") && !f.includes("/gen/") && !f.includes("node_modules/"))
    .sort();
const read = (file: string): string => readFileSync(join(root, file), "utf8");

const typescript = files(["{native,packages,services,scripts,test,bench}/**/*.ts"]);
const cpp = files(["native/**/*.{h,cpp,cu}"]);
const isTest = (file: string): boolean =>
  file.endsWith(".test.ts") || file.startsWith("test/") || file.includes("/test/");

/** Longer than 500 lines because they are tables. */
const tables = new Set<string>(["native/ops/code_tables.h"]);

/** Parts of the tree, outermost last; a part may import those that are listed for it, and itself. */
const mayImport: Record<string, readonly string[]> = {
  native: [],
  "packages/errors": [],
  "packages/hub": ["packages/errors"],
  "packages/data": ["packages/errors", "packages/hub"],
  "packages/engine": ["native", "packages/errors", "packages/hub", "packages/data"],
  "packages/rpc": ["packages/errors"],
  "packages/http": ["packages/errors"],
  "packages/jobs": ["packages/errors", "packages/rpc"],
  "packages/sql": ["packages/errors"],
  "packages/client": ["packages/errors", "packages/hub", "packages/rpc"],
};
const servicesMayImport = ["errors", "hub", "data", "engine", "rpc", "http", "client", "jobs", "sql"].map(
  (p) => `packages/${p}`,
);

function partOf(path: string): string {
  const [top = "", second = ""] = path.split("/");
  return top === "packages" || top === "services" ? `${top}/${second}` : top;
}

function importsOf(file: string): string[] {
  const found = [...read(file).matchAll(/(?:from|import\(|import)\s*"([^"]+)"/g)].map((m) => m[1] ?? "");
  return found.flatMap((name) => {
    if (name === "#native") return ["native/index.ts"];
    if (name.startsWith("#gen/")) return ["packages/rpc/gen"];
    if (name.startsWith("#packages/")) return [name.slice(1)];
    return name.startsWith(".") ? [normalize(join(dirname(file), name)).replaceAll("\\", "/")] : [];
  });
}

describe("imports go one way", () => {
  for (const part of new Set(typescript.filter((f) => /^(native|packages|services)\//.test(f)).map(partOf))) {
    const allowed = part.startsWith("services/") ? servicesMayImport : mayImport[part];
    if (!allowed) continue; // the command line may import anything
    test(part, () => {
      const wrong = typescript
        .filter((f) => partOf(f) === part && !isTest(f))
        .flatMap((f) => importsOf(f).map((to) => ({ f, to: partOf(to) })))
        .filter(({ to }) => to !== part && to !== "package.json" && !allowed.includes(to));
      assert.deepEqual(wrong, []);
    });
  }

  test("native backends do not include each other; only the binding knows N-API, only backends/cuda/device the CUDA runtime", () => {
    const wrong = cpp.flatMap((file) => {
      const home = /^native\/backends\/(\w+)\//.exec(file)?.[1];
      return [...read(file).matchAll(/#include [<"]([^>"]+)[>"]/g)].flatMap(([, path = ""]) => {
        const other = /^backends\/(\w+)\//.exec(path)?.[1];
        const foreign = home !== undefined && other !== undefined && other !== home;
        const cuda = path.includes("cuda_runtime") && !file.startsWith("native/backends/cuda/device/");
        const napi = path.includes("napi") && !file.startsWith("native/binding/");
        return foreign || napi || cuda ? [`${file}: ${path}`] : [];
      });
    });
    assert.deepEqual(wrong, []);
  });
});

describe("sizes", () => {
  test("no file is over 500 lines", () => {
    const long = [...typescript, ...cpp].filter((f) => !tables.has(f) && read(f).split("\n").length > 501);
    assert.deepEqual(long, []);
  });

  test("no function is over 70 lines", () => {
    const long = [...typescript, ...cpp].filter((f) => !tables.has(f) && !isTest(f)).flatMap(longFunctions);
    assert.deepEqual(long, []);
  });
});

/** A function starts on a line that ends with "{" and ends where the same indentation closes. Not a parser, but it finds them. */
function longFunctions(file: string): string[] {
  const lines = read(file).split("\n");
  const start = file.endsWith(".ts")
    ? /^(\s*)(export )?(async )?(function\*? \w+|(private |static |async |\*)*[\w#]+\(.*\).*\{$)/
    : /^(\s*)[\w:<>*&~, ]+\([^;]*\{$/;
  return lines.flatMap((line, i) => {
    const indent = start.exec(line)?.[1];
    if (
      indent === undefined ||
      /^\s*(if|for|while|switch|else|return|namespace|class|struct|describe|test)\b/.test(line)
    )
      return [];
    const end = lines.findIndex((l, j) => j > i && l.startsWith(`${indent}}`));
    return end - i > 70 ? [`${file}:${i + 1} (${end - i} lines)`] : [];
  });
}

test("every op of the CPU backend has its twin in the reference backend", () => {
  const names = (folder: string) =>
    files([`native/backends/${folder}/*.cpp`]).map((f) => relative(`native/backends/${folder}`, f));
  const reference = new Set(names("reference"));
  const ops = new Set(files(["native/ops/*.cpp"]).map((f) => relative("native/ops", f)));
  const missing = names("cpu").filter((name) => ops.has(name) && !reference.has(name));
  assert.deepEqual(missing, []);
});

/** Ops that a device may have or not: callers ask. */
const optionalOps = ["screen_head", "screened_head", "lora_adds"];

test("the reference backend and the CUDA backend have the same ops", () => {
  const functions = (backend: string) =>
    [...read(`native/backends/${backend}/backend.cpp`).matchAll(/^ +\.(\w+) = /gm)].map((m) => m[1]);
  const needed = (backend: string) => functions(backend).filter((name) => !optionalOps.includes(name ?? ""));
  assert.deepEqual(needed("cuda"), needed("reference"));
});

test("nothing names a registry's host or a path of a machine", () => {
  const text = files(["**/*.{ts,mjs,h,cpp,md,json,yaml,yml,proto,txt}", ".ci/*"]).filter(
    (f) => f !== "package-lock.json",
  );
  const wrong = text.filter((f) => /(^|[\s"'`(])\/(root|home)\/\w|registry\.npmjs|\.\.\/shared\b/.test(read(f)));
  assert.deepEqual(
    wrong.filter((f) => f !== "test/tidy.test.ts"),
    [],
  );
});
