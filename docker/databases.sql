-- Beside the database `prefect`, which POSTGRES_DB names: run once, when the volume is new.
create database mlflow;
