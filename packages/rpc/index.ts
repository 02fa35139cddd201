// The kit every service and client stands on: gRPC over protobuf-es descriptors. It knows no tensors and no service.
export type { ClientOptions } from "./client.ts";
export { createClient } from "./client.ts";
export type { Forwarded } from "./forward.ts";
export { forward } from "./forward.ts";
export { Health } from "./health.ts";
export { checkId, decodePageToken, encodePageToken, formatName, isId, pageSizeOf, parseName } from "./names.ts";
export type { Running, ServiceSetup } from "./run-service.ts";
export { createLogger, exitCodes, runProcess, runService } from "./run-service.ts";
export type { Implementation, RunningServer, ServerOptions } from "./server.ts";
export { createServer, implement } from "./server.ts";
export type { Environment } from "./settings.ts";
export { choiceSetting, textSetting, wholeSetting } from "./settings.ts";
export type { FieldViolation } from "./status.ts";
export { BadRequestError, errorDomain, fromStatus, toStatus } from "./status.ts";
export { orAborted } from "./streams.ts";
export type { TelemetryOptions } from "./telemetry.ts";
export { startTelemetry } from "./telemetry.ts";
export type { CallContext, CallOptions, Client, Handlers } from "./types.ts";
