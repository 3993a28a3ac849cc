// DBOS: a library. The workflow, its steps and the client are one process beside Postgres.

import { startPostgres } from '../postgres.mjs';

const STEPS = ['first', 'second', 'third', 'fourth', 'fifth'];

export const prepare = async (stage) => ({ url: await startPostgres(stage) });

export async function open({ url }) {
  const { DBOS } = await import('@dbos-inc/dbos-sdk');
  const step = async (_input) => ({ ok: true });
  const chain = DBOS.registerWorkflow(
    async (input) => {
      let done = 0;
      for (const name of STEPS) done += (await DBOS.runStep(() => step(input), { name })).ok;
      return done;
    },
    { name: 'chain' },
  );
  DBOS.setConfig({
    name: 'compare',
    systemDatabaseUrl: url,
    logLevel: 'error',
    // Not the default of 10, which was up to a quarter slower with many clients.
    systemDatabasePoolSize: 40,
  });
  await DBOS.launch();
  return { chain, close: () => DBOS.shutdown() };
}
