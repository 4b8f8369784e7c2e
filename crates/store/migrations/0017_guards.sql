-- To whom a turn was handed over is asked with every request that leaves a session of several agents.
create index session_log_handover_idx on session_log (turn_id) where kind = 'turn.handover';
