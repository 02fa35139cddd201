// Prompts that data sets are written for, word for word.

/** Stanford Alpaca's; the space after "Response:" belongs to them (qlora.py of arXiv:2305.14314). */
export function alpacaPrompt(instruction: string, input: string): string {
  const opening = "Below is an instruction that describes a task";
  const request = "Write a response that appropriately completes the request.";
  return input === ""
    ? `${opening}. ${request}\n\n### Instruction:\n${instruction}\n\n### Response: `
    : `${opening}, paired with an input that provides further context. ${request}\n\n### Instruction:\n${instruction}\n\n### Input:\n${input}\n\n### Response: `;
}
