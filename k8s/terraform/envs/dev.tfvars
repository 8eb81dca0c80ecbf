# One small pool that may vanish (spot), nothing doubled, everything can be deleted again.
# The values without which it cannot work are examples: put in your own.
project_id  = "example-strongroom-dev"
environment = "dev"
region      = "europe-west4"
bucket_name = "example-strongroom-dev-artifacts"

authorized_networks = {
  office = "203.0.113.0/29"
}

release_channel      = "RAPID"
key_protection_level = "SOFTWARE"
deletion_protection  = false

general_pool = {
  machine_type = "e2-standard-4"
  min_nodes    = 1
  max_nodes    = 2
}

gpu_pools = {
  l4 = {
    machine_type      = "g2-standard-8"
    accelerator_type  = "nvidia-l4"
    accelerator_count = 1
    spot              = true
    min_nodes         = 0
    max_nodes         = 2
  }
}

database = {
  tier             = "db-custom-2-8192"
  highly_available = false
  disk_size_gb     = 20
  backups_kept     = 7
}

cache = {
  memory_size_gb   = 1
  highly_available = false
}
