// graphile-worker: a job queue. Each job of a chain adds the next one, and the last one writes a row. The handlers and the
// client are one process beside Postgres, so the client need not even listen for the end.

import { randomUUID } from 'node:crypto';

import { startPostgres } from '../postgres.mjs';

const STEPS = ['first', 'second', 'third', 'fourth', 'fifth'];

export const prepare = async (stage) => ({ url: await startPostgres(stage) });

export async function open({ url }) {
  const { Logger, makeWorkerUtils, run } = await import('graphile-worker');
  const logger = new Logger(() => (level, message) => {
    if (level === 'error' || level === 'warning') console.error(message);
  });
  const utils = await makeWorkerUtils({ connectionString: url, logger });
  await utils.withPgClient((pg) => pg.query('CREATE TABLE chains (id uuid PRIMARY KEY, steps int NOT NULL)'));
  await utils.release();

  const waiting = new Map();
  const step = (n) => async ({ id, input }, helpers) => {
    if (n + 1 < STEPS.length) {
      await helpers.addJob(STEPS[n + 1], { id, input });
    } else {
      await helpers.query('INSERT INTO chains VALUES ($1, $2)', [id, n + 1]);
      waiting.get(id)(n + 1);
    }
  };
  const runner = await run({
    preset: {
      worker: {
        connectionString: url,
        logger,
        // What its documentation recommends for throughput ("Performance").
        concurrentJobs: 24,
        maxPoolSize: 25,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    taskList: Object.fromEntries(STEPS.map((name, n) => [name, step(n)])),
  });
  const chain = (input) =>
    new Promise((resolve, reject) => {
      const id = randomUUID();
      waiting.set(id, resolve);
      runner.addJob(STEPS[0], { id, input }).catch(reject);
    });
  return { chain, close: () => runner.stop() };
}
