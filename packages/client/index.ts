// What programs use to talk to a running stack: typed clients of the services, and helpers for what takes more than
// one call. It decides nothing about training or serving, and prints nothing.
export type { AnswerAsk, AnswerMessage, AnswerOptions } from "./answer.ts";
export { steadyAnswer } from "./answer.ts";
export type {
  Connection,
  ConnectOptions,
  Endpoints,
  InferenceClient,
  RegistryClient,
  TrainerClient,
} from "./connect.ts";
export { connect, defaultEndpoints } from "./connect.ts";
export type { DownloadOptions } from "./download.ts";
export { downloadAdapter, resolveVersion } from "./download.ts";
export type { OperationOptions } from "./operation.ts";
export { waitForOperation } from "./operation.ts";
export { pagesOf } from "./pages.ts";
export type { TransferProgress, UploadOptions } from "./upload.ts";
export { uploadAdapter } from "./upload.ts";
export type { WatchOptions } from "./watch-job.ts";
export { watchJob } from "./watch-job.ts";
