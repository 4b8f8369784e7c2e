-- Git repositories. What is in them lies on the disk of the server; here is who they are and what is being pushed.

create table repos (
    id               uuid primary key,
    space_id         uuid not null constraint repos_space references spaces on delete restrict,
    name             text not null,
    description      text,
    labels           jsonb not null default '{}',
    default_branch   text not null,
    -- Patterns of branches that are neither deleted nor rewound.
    protected        text[] not null default '{}',
    -- Null: the installation's limit.
    max_bytes        bigint,
    -- On the disk when it was looked at last, and what an open push has reserved.
    bytes            bigint not null default 0 constraint repos_bytes check (bytes >= 0),
    -- Something in it can be reached no more and waits for the collector.
    garbage          boolean not null default false,
    pushed_at        timestamptz,
    -- Set by a delete; the row goes when its directory has.
    deleted_at       timestamptz,
    resource_version bigint not null default 1,
    created_at       timestamptz not null,
    updated_at       timestamptz not null
);
create unique index repos_name on repos (space_id, name) where deleted_at is null;
create index repos_space_idx on repos (space_id, id);

-- A push that was let in and whose outcome is not written down yet. One at a time for each repository.
create table repo_pushes (
    id         uuid primary key,
    repo_id    uuid not null constraint repo_pushes_repo references repos on delete cascade,
    -- `[{ref, old, new}]`, as the client asked for.
    updates    jsonb not null,
    -- Whether branches are rewound or refs deleted by it.
    rewinds    boolean not null,
    pushed_by  text not null,
    created_at timestamptz not null
);
create index repo_pushes_repo_idx on repo_pushes (repo_id);

alter table space_usage add column git_bytes bigint not null default 0 constraint space_usage_git check (git_bytes >= 0);
