// The Open Inference Protocol, as a platform that knows nothing else would use it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { GRPCInferenceService } from "#gen/inference/grpc_predict_v2_pb.ts";
import { createClient } from "#packages/rpc";
import { goldenPath, temporaryFolder } from "../../test/support/folders.ts";
import { silent, startService } from "../../test/support/services.ts";
import { readConfig } from "./config.ts";
import { openInference } from "./setup.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

test("health, metadata and answers of the base and of adapters", async (t) => {
  const place = { dir: temporaryFolder(t), threads: 1, modelDir: goldenPath("llama_untied_nf4_dq") };
  const config = { ...readConfig({}), ...place, registry: "127.0.0.1:1" };
  const { server, clients } = await startService(t, await openInference(config, { now: Date.now, logger: silent }));
  const client = createClient(GRPCInferenceService, server.address);
  t.after(() => client.close());
  const source = { case: "adapterDir", value: goldenPath("train", "qlora_adapter") } as const;
  await clients.inference.loadAdapter({ adapterId: "bot", source });

  assert.equal((await client.serverLive({})).live, true);
  assert.equal((await client.serverReady({})).ready, true);
  const { version } = JSON.parse(readFileSync("package.json", "utf8"));
  assert.deepEqual(
    [(await client.serverMetadata({})).name, (await client.serverMetadata({})).version],
    ["nibble", version],
  );
  const ready = async (name: string) => (await client.modelReady({ name })).ready;
  assert.deepEqual([await ready("base"), await ready("bot"), await ready("other")], [true, true, false]);
  const metadata = await client.modelMetadata({ name: "bot" });
  assert.deepEqual(metadata.inputs[0]?.shape, [-1n]);
  await assert.rejects(client.modelMetadata({ name: "other" }), { code: "NOT_FOUND" });

  const prompts = ["Hello", "What is two and two?"].map((prompt) => Buffer.from(prompt));
  const input = (shape: bigint[]) => ({ name: "text_input", datatype: "BYTES", shape });
  const whole = (value: bigint) => ({ parameterChoice: { case: "int64Param", value } }) as const;
  const parameters = {
    max_tokens: whole(6n),
    ignore_eos: { parameterChoice: { case: "boolParam", value: true } },
  } as const;
  const ask = (modelName: string) =>
    client.modelInfer({
      modelName,
      id: "7",
      parameters,
      inputs: [{ ...input([2n]), contents: { bytesContents: prompts } }],
    });
  const [base, bot] = [await ask("base"), await ask("bot")];
  assert.equal(base.id, "7");
  const textsOf = (response: typeof base) => response.outputs[0]!.contents!.bytesContents.map(text);
  assert.equal(textsOf(base).length, 2);
  assert.notDeepEqual(textsOf(base), textsOf(bot));
  assert.deepEqual(base.outputs[3]?.contents?.intContents, [6, 6]);

  const raw = Buffer.concat(prompts.flatMap((p) => [Buffer.from(Uint32Array.of(p.length).buffer), p]));
  const wanted = { outputs: [{ name: "text_output" }], parameters, modelName: "bot" };
  const inRaw = await client.modelInfer({ ...wanted, inputs: [input([2n])], rawInputContents: [raw] });
  const first = inRaw.rawOutputContents[0]!;
  const size = new DataView(first.buffer, first.byteOffset).getUint32(0, true);
  assert.equal(text(first.subarray(4, 4 + size)), textsOf(bot)[0]);

  const refused = async (request: Parameters<typeof client.modelInfer>[0], message: RegExp) =>
    assert.rejects(client.modelInfer(request), { code: "INVALID_ARGUMENT", message });
  const good = { modelName: "base", inputs: [{ ...input([2n]), contents: { bytesContents: prompts } }] };
  await refused({ modelName: "base" }, /expected one, text_input BYTES, got none/);
  await refused({ ...good, inputs: [input([2n])] }, /expected 1 to 256 elements/);
  await refused({ ...good, rawInputContents: [raw.subarray(0, 20)] }, /whole elements/);
  await refused({ ...good, parameters: { beams: whole(2n) } }, /got beams/);
  await refused({ ...good, parameters: { top_k: whole(-1n) } }, /top_k/);
  await refused({ ...good, outputs: [{ name: "x" }] }, /got x/);
});
