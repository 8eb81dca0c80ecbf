terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  # The one provider, at the version whose schema these files were checked against.
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "8.7.0"
    }
  }

  # The bucket is named at `terraform init -backend-config=…`: see docs/gke.md.
  backend "gcs" {}
}

provider "google" {
  project = var.project_id
  region  = var.region

  # Calls count against this project's quotas, whoever makes them.
  billing_project       = var.project_id
  user_project_override = true
}
