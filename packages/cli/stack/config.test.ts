// What the services of a stack are told.
import assert from "node:assert/strict";
import { test } from "node:test";
import { serviceEnv, stackConfig } from "./config.ts";
import { gatewayHost } from "./stack.ts";

test("the gateway is open to other machines only with keys", () => {
  assert.equal(gatewayHost("127.0.0.1", {}), "127.0.0.1");
  assert.equal(gatewayHost("0.0.0.0", {}), "127.0.0.1");
  assert.equal(gatewayHost("0.0.0.0", { NIBBLE_GATEWAY_KEYS: "k" }), "0.0.0.0");
});

test("a service is told where those are that started before it, and inference its model", () => {
  const config = { ...stackConfig({}), model: "/models/m" };
  const env = serviceEnv(config, "gateway", { inference: "h:1", registry: "h:2" });
  assert.deepEqual(
    [env["NIBBLE_INFERENCE_ENDPOINT"], env["NIBBLE_REGISTRY_ENDPOINT"], env["NIBBLE_INFERENCE_MODEL"]],
    ["h:1", "h:2", undefined],
  );
  assert.equal(serviceEnv(config, "inference", {})["NIBBLE_INFERENCE_MODEL"], "/models/m");
});
