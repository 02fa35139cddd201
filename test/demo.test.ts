// The demo as a process: nothing is left when it is stopped in the middle or has nothing to work with. That it works
// at all is a step of `npm test` of its own.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "./support/folders.ts";

const script = fileURLToPath(new URL("../scripts/demo.ts", import.meta.url));

/** Runs the demo and sends SIGINT when a line has `after`; ports are those of its services. */
async function interrupted(t: TestContext, after: string) {
  const folder = temporaryFolder(t);
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", script, "--short"], {
    env: { ...process.env, TMPDIR: folder },
  });
  const closed = once(child, "close");
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const ports: number[] = [];
  for await (const line of createInterface({ input: child.stdout })) {
    const port = /^(?:registry|quantizer|trainer|inference) +127\.0\.0\.1:(\d+)$/.exec(line)?.[1];
    if (port) ports.push(Number(port));
    if (line.includes(after)) child.kill("SIGINT");
  }
  const [code] = await closed;
  return { code, stderr, ports, left: readdirSync(folder) };
}

function isFree(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

test("Ctrl-C leaves no service and no file", async (t) => {
  for (const after of ["== five services", "== trainer"]) {
    const { code, stderr, ports, left } = await interrupted(t, after);
    assert.deepEqual([code, left], [130, []], stderr);
    assert.match(stderr, /^error: \[demo\] cancelled$/m);
    assert.equal(ports.length, after === "== trainer" ? 4 : 0);
    for (const port of ports) assert.ok(await isFree(port), `port ${port}`);
  }
});

test("a wrong flag is a line and exit code 2", async () => {
  const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", script, "--shrt"]);
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const [code] = await once(child, "close");
  assert.deepEqual([code, stderr], [2, "error: [usage] Unknown option '--shrt'\n"]);
});
