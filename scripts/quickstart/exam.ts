// Asks a model the held-out questions and marks the answers: right only when the text, and where it ends, are as in the row.
// It knows the engine but no service; the demo asks the same questions over gRPC.
import type { TextTokenizer } from "#packages/data";
import type { EngineModel } from "#packages/engine";
import { asRow, type Question } from "./instructions.ts";
import { Random } from "./random.ts";
import { townspeople } from "./world.ts";

export interface Mark {
  task: string;
  prompt: string;
  expected: string;
  answer: string;
  isRight: boolean;
}

const greedy = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };
/** More than the longest right answer has. */
const answerTokensMax = 40;

export class Examiner {
  private readonly model: EngineModel;
  private readonly tokenizer: TextTokenizer;

  constructor(model: EngineModel, tokenizer: TextTokenizer) {
    this.model = model;
    this.tokenizer = tokenizer;
  }

  /** All questions at once, in the chat format: the engine batches them as it can. */
  ask(questions: readonly Question[], adapterId: string | null): Promise<Mark[]> {
    const template = this.tokenizer.chatTemplate!;
    return Promise.all(
      questions.map(async (question) => {
        const prompt = template.render(asRow(question).messages.slice(0, 1), { addGenerationPrompt: true });
        const { text, ended } = await this.complete(prompt, answerTokensMax, adapterId);
        const isRight = ended && text === question.answer;
        return { task: question.task, prompt: question.question, expected: question.answer, answer: text, isRight };
      }),
    );
  }

  /** What the base knows without any question: sentences begun in the corpus's own manner, to be finished by one fact. */
  finishSentences(seed: number, count: number): Promise<Mark[]> {
    const random = new Random(seed);
    return Promise.all(
      Array.from({ length: count }, async () => {
        const { task, prompt, expected } = begunTown(random);
        const { text } = await this.complete(`<s>${prompt}`, 8, null);
        return { task, prompt, expected, answer: text, isRight: text.startsWith(expected) };
      }),
    );
  }

  private async complete(prompt: string, maxNewTokens: number, adapterId: string | null) {
    const inputIds = this.tokenizer.encode(prompt, { addSpecialTokens: false });
    const ids: number[] = [];
    const { reason } = await this.model.generate(
      { inputIds, maxNewTokens, sampling: greedy, wantLogits: false, ignoreEos: false, adapterId },
      { onEvent: ({ id }) => ids.push(id) },
    );
    return { text: this.tokenizer.decode(ids).trimStart(), ended: reason === "eos" };
  }
}

function begunTown(random: Random) {
  const { name, street } = random.pick(townspeople);
  return { task: "sentence about the town", prompt: `${name} lives in`, expected: `${street}.` };
}

/** "task right/asked" for each task, and the share of right answers. */
export function summarize(marks: readonly Mark[]): { share: number; byTask: string } {
  const byTask = [...Map.groupBy(marks, ({ task }) => task)]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([task, of]) => `${task} ${of.filter((m) => m.isRight).length}/${of.length}`)
    .join(", ");
  return { share: marks.filter((m) => m.isRight).length / marks.length, byTask };
}
