// The generated TypeScript is what the contracts say, and the printed buf/validate/validate.proto is complete.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { globSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { file_buf_validate_validate } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js";
import { generate } from "../scripts/proto.ts";
import { printProto } from "../scripts/proto-print.ts";

const gen = "packages/rpc/gen";

test("packages/rpc/gen is up to date: run `npm run proto` if this fails", () => {
  const fresh = mkdtempSync(join(tmpdir(), "nibble-gen-"));
  try {
    generate(fresh);
    const files = globSync("**/*.ts", { cwd: fresh }).sort();
    assert.ok(files.length > 10, "expected the generator to write files");
    assert.deepEqual(globSync("**/*.ts", { cwd: gen }).sort(), files);
    for (const file of files) {
      assert.ok(readFileSync(join(gen, file)).equals(readFileSync(join(fresh, file))), `${join(gen, file)} is stale`);
    }
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
});

test("every message, enum and extension of validate.proto is printed", () => {
  const source = printProto(file_buf_validate_validate);
  for (const message of file_buf_validate_validate.messages)
    assert.match(source, new RegExp(`message ${message.name} \\{`));
  assert.match(
    source,
    /extend \.google\.protobuf\.FieldOptions \{\n {2}optional \.buf\.validate\.FieldRules field = 1159;/,
  );
  assert.match(source, /extensions 1000 to 536870911;/);
});

test("an unknown command of the proto script is refused", () => {
  const result = spawnSync(process.execPath, ["scripts/proto.ts", "nonsense"], { encoding: "utf8" });
  assert.equal(result.status, 2);
  assert.match(result.stderr, /expected one of generate, .*got nonsense/);
});
